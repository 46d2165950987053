"""What /metrics tells, and that the dashboard and the alerts ask for nothing else."""

import json
import re
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import httpx2
import promql_parser
import pytest
import yaml
from fake_engine import FakeEngine
from prometheus_client.parser import text_string_to_metric_families
from server import serving

from laur.serve.http import worker_metrics

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "deploy/grafana/laur.json").read_text("utf-8"))
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text("utf-8"))
FROM_PROMETHEUS = {"instance", "job"}
"""Labels that whoever scrapes adds."""


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """After some jobs of each kind, on an engine that says it is a GPU's."""
    engine = FakeEngine(seconds=0.01)
    engine.library.placement.device = SimpleNamespace(type="cuda", index=0)
    patch = pytest.MonkeyPatch()
    sizes = {"allocated": 1, "reserved": 2, "free": 3, "total": 4}
    patch.setattr(worker_metrics, "_gpu", lambda device: sizes)
    with (
        serving(tmp_path_factory.mktemp("m"), engine, queue={"max_attempts": 1}) as running,
        httpx2.Client(base_url=running.url, timeout=30.0) as http,
    ):
        adapter = {"adapters": [{"name": "lcm-lora-mini"}]}
        for recipe in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {"prompt": "crash"}, {"prompt": "unplannable"}, adapter):
            number = http.post("/v1/jobs", json={"recipe": {"prompt": "a fox", **recipe}}).json()["id"]
            while http.get(f"/v1/jobs/{number}").json()["state"] in {"queued", "running"}:
                time.sleep(0.01)
        http.get("/nothing")
        text = http.get("/metrics").text
        engine.gate.clear()  # more than the worker takes: pools are told while something waits in them
        for _ in range(15):
            http.post("/v1/jobs", json={"recipe": {"prompt": "a fox"}})
        later = http.get("/metrics").text
        engine.gate.set()
    patch.undo()
    pools = [family for family in read(later) if family.name == "laur_queue_pool_waiting"]
    return [*(family for family in read(text) if family.name != "laur_queue_pool_waiting"), *pools]


def read(text):
    return list(text_string_to_metric_families(text))


@pytest.fixture(scope="module")
def values(families):
    found = {}
    for family in families:
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.items())] = sample.value
    return found


def test_what_was_done_is_counted(values):
    def jobs(event):
        return values["laur_jobs_total", ("event", event)]

    assert [jobs(event) for event in ("submitted", "done", "failed", "faults", "refused")] == [6, 4, 2, 1, 0]
    own = ("engine", "0")
    assert values["laur_worker_ended_total", own, ("state", "done")] == 3
    assert values["laur_cache_submission_hits_total",] == 1
    assert values["laur_job_seconds_count", own] == 3
    assert values["laur_engine_steps_total", own] == values["laur_engine_step_seconds_count", own] == 12
    assert values["laur_engine_batch_occupancy_sum", own] == pytest.approx(12 / 8)
    assert 0.01 <= values["laur_engine_step_seconds_sum", own] / 12 < 2.0
    assert values["laur_cache_adapter_misses_total", own] == 1
    assert values["laur_cache_checkpoint_hits_total", own] == 5
    assert values["laur_success_ratio",] == pytest.approx(0.8)
    assert values["laur_error_budget_left_ratio",] == pytest.approx(1 - (1 / 5) / 0.01)
    assert values["laur_gpu_memory_bytes", own, ("kind", "total")] == 4
    assert values["laur_http_requests_total", ("route", "POST /v1/jobs"), ("status", "202")] == 6
    assert values["laur_http_requests_total", ("route", "other"), ("status", "404")] == 1
    for stage in ("plan", "prepare", "text", "denoise", "decode", "encode", "store"):
        count = values["laur_stage_seconds_count", own, ("stage", stage)]
        assert count >= 3, stage
    assert values["process_resident_memory_bytes",] > 1e6
    assert values["process_open_fds",] > 0


def test_names_types_and_labels_are_prometheus_s(families):
    for family in families:
        if not family.name.startswith("laur_"):
            continue
        assert family.documentation
        assert re.fullmatch(r"laur_[a-z_]+", family.name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name == f"{family.name}_total"
            for label, value in sample.labels.items():
                assert label in {"engine", "stage", "event", "state", "route", "status", "pool", "outcome", "kind",
                                 "device", "dtype", "model", "version", "le"}  # fmt: skip
                assert not re.search(r"[0-9a-f]{32}", value), "an id is no label"
        if family.type == "histogram":
            counts = defaultdict(list)
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    rest = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
                    counts[rest].append(sample.value)
            assert all(row == sorted(row) for row in counts.values())


def queries():
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield pytest.param(target["expr"], id=f"board: {panel['title']} {target['refId']}")
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield pytest.param(rule["expr"], id=rule["alert"])


class Selectors:
    """Everything that a query reads, by a walk through its parts."""

    def __init__(self, query):
        self.found = []
        self.by = set()
        self._walk(promql_parser.parse(query))

    def _walk(self, part):
        if isinstance(part, promql_parser.VectorSelector):
            self.found.append((part.name, {m.name: (str(m.op), m.value) for m in part.matchers.matchers}))
        elif isinstance(part, promql_parser.MatrixSelector):
            self._walk(part.vector_selector)
        elif isinstance(part, promql_parser.BinaryExpr):
            self._walk(part.lhs)
            self._walk(part.rhs)
        elif isinstance(part, promql_parser.Call):
            for argument in part.args:
                self._walk(argument)
        elif isinstance(part, promql_parser.AggregateExpr):
            if part.modifier is not None:
                self.by |= set(part.modifier.labels)
            self._walk(part.expr)
        elif isinstance(part, promql_parser.ParenExpr | promql_parser.UnaryExpr | promql_parser.SubqueryExpr):
            self._walk(part.expr)
        else:
            assert isinstance(part, promql_parser.NumberLiteral | promql_parser.StringLiteral), type(part)


@pytest.mark.parametrize("query", list(queries()))
def test_what_is_asked_for_is_there(query, values):
    read = Selectors(query.replace("$__rate_interval", "5m").replace("$job", ".+"))
    assert read.found
    labels_of = defaultdict(lambda: defaultdict(set))
    for name, *labels in values:
        for label, value in labels:
            labels_of[name][label].add(value)
    names = {key[0] for key in values}
    known = set(FROM_PROMETHEUS)
    for name, matchers in read.found:
        assert name in names, f"nobody exports {name}"
        known |= set(labels_of[name])
        for label, (_, value) in matchers.items():
            if label in FROM_PROMETHEUS:
                continue
            assert label in labels_of[name], f"{name} has no label {label}"
            wanted = value.split("|") if "[" not in value and "." not in value else []
            assert set(wanted) <= labels_of[name][label], f"{name} is never {label}={value}"
    assert read.by <= known, f"grouped by labels that nothing has: {read.by - known}"


def test_the_board_shows_every_family(families):
    """What is worth exporting is worth a look."""
    text = json.dumps(BOARD)
    names = {family.name for family in families if family.name.startswith("laur_")}
    unseen = {name for name in names if name not in text}
    assert unseen <= {name for name in names if name.endswith("_hit_ratio")} | {"laur_objective_jobs"}


def test_panels_have_places_and_legends_of_their_own():
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            read = Selectors(target["expr"].replace("$__rate_interval", "5m").replace("$job", ".+"))
            if read.by:
                assert wanted <= read.by | {"device", "model"}, panel["title"]
