"""Traces over the real server and worker: one trace from the client's own span to the stages of its picture."""

import http.server
import json
import os
import secrets
import subprocess
import sys
import threading
import time

import httpx2
import pytest
from fake_engine import FakeEngine
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from server import serving

from laur.core.errors import NotFoundError
from laur.serve.observe.otel import OtelTracing
from laur.serve.observe.trace import OFF, open_tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Seen:
    """The spans that were made."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = OtelTracing(provider)

    def of(self, trace):
        return [span for span in self.all() if f"{span.context.trace_id:032x}" == trace]

    def all(self):
        return self._exporter.get_finished_spans()


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture(params=["memory", "redis"])
def server(request, tmp_path, seen):
    redis = request.getfixturevalue("redis_server").url if request.param == "redis" else None
    queue = {"namespace": f"t{secrets.token_hex(4)}"}
    engine = FakeEngine(seconds=0.02)
    with serving(tmp_path, engine, redis=redis, queue=queue, tracing=seen.tracing) as running:
        yield running


def submit(http, trace, **recipe):
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    answer = http.post("/v1/jobs", json={"recipe": {"prompt": "a fox", **recipe}}, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def finished(http, number):
    while (job := http.get(f"/v1/jobs/{number}").json())["state"] in {"queued", "running"}:
        time.sleep(0.02)
    return job


def eventually(look):
    until = time.monotonic() + 10
    while not (found := look()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def test_one_trace_from_the_client_to_the_stages(server, seen):
    with httpx2.Client(base_url=server.url, timeout=30.0) as http:
        number = submit(http, TRACE, seed=1)
        assert finished(http, number)["state"] == "done"
    assert eventually(lambda: "draw job" in {span.name for span in seen.of(TRACE)})
    spans = seen.of(TRACE)
    by_name = {span.name: span for span in spans}
    asked, sent, drawn = by_name["POST /v1/jobs"], by_name["submit job"], by_name["draw job"]
    assert f"{asked.parent.span_id:016x}" == PARENT
    assert sent.parent.span_id == asked.context.span_id
    assert drawn.parent.span_id == by_name["queue"].parent.span_id == sent.context.span_id
    assert asked.attributes["http.response.status_code"] == 202
    assert drawn.attributes["messaging.message.id"] == number
    assert drawn.attributes["laur.job.outcome"] == "done"
    stages = [span for span in spans if span.parent.span_id == drawn.context.span_id]
    assert [span.name for span in stages].count("denoise") == 4
    assert {span.name for span in stages} == {"plan", "prepare", "text", "denoise", "decode", "encode", "store"}
    assert [span.attributes["laur.step"] for span in stages if span.name == "denoise"] == [1, 2, 3, 4]
    for span in stages:
        assert drawn.start_time - 5e6 <= span.start_time <= span.end_time <= drawn.end_time + 5e6


def test_a_batch_links_the_jobs_that_it_moves(server, seen):
    server.engine.gate.clear()
    traces = [secrets.token_hex(16) for _ in range(3)]
    with httpx2.Client(base_url=server.url, timeout=30.0) as http:
        first = submit(http, secrets.token_hex(16), prompt="first", seed=1)
        assert eventually(lambda: server.engine.batches)
        numbers = [submit(http, trace, seed=n) for n, trace in enumerate(traces)]
        assert eventually(lambda: len(server.app.state.crew.workers[0].hand) == 4)
        time.sleep(0.3)
        server.engine.gate.set()
        for number in (first, *numbers):
            finished(http, number)
    assert eventually(lambda: all("draw job" in {span.name for span in seen.of(trace)} for trace in traces))
    drawn = {trace: next(span for span in seen.of(trace) if span.name == "draw job") for trace in traces}
    together = {span.context.span_id: span for span in seen.all() if span.attributes.get("laur.batch.jobs", 0) >= 3}
    assert together
    everyone = {span.context.span_id for span in drawn.values()}
    leaders = [span for span in together.values() if len(span.links) > 1]
    assert leaders
    for span in leaders:  # to the other jobs
        linked = {link.context.span_id for link in span.links}
        assert len(linked & everyone) >= 2
        assert span.attributes["laur.batch.rows"] == span.attributes["laur.batch.jobs"]
    for span in together.values():  # and from them to the one that has the links
        if span not in leaders:
            assert [link.context.span_id in together for link in span.links] == [True]


def test_a_failure_and_an_error_are_marked(server, seen):
    with httpx2.Client(base_url=server.url, timeout=30.0) as http:
        number = submit(http, TRACE, prompt="refuse", seed=1)
        assert finished(http, number)["state"] == "failed"
    [drawn] = eventually(lambda: [span for span in seen.of(TRACE) if span.name == "draw job"])
    assert (drawn.status.status_code.name, drawn.status.description) == ("ERROR", "failed")


def test_what_the_client_does_not_sample_is_not_recorded(server, seen):
    with httpx2.Client(base_url=server.url, timeout=30.0) as http:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        body = {"recipe": {"prompt": "a fox", "seed": 1}}
        finished(http, http.post("/v1/jobs", json=body, headers=headers).json()["id"])
    assert seen.of(TRACE) == []


def test_variables_decide():
    assert open_tracing("x", {}) is OFF
    assert open_tracing("x", {"OTEL_TRACES_EXPORTER": "none"}) is OFF
    assert open_tracing("x", {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}) is OFF
    for values in ({"OTEL_TRACES_EXPORTER": "otlp"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}):
        tracing = open_tracing("x", values)
        assert tracing.on
        tracing.close()
    with pytest.raises(NotFoundError, match="no exporter of traces is called 'zipkon'"):
        open_tracing("x", {"OTEL_TRACES_EXPORTER": "zipkon"})


CONSOLE = """
import sys
from laur.serve.observe.trace import open_tracing
import laur.serve.http.app, laur.serve.worker.worker
off = open_tracing("laur-x", {})
with off.request("GET", "/", {}) as span:
    span.answered("GET /", 200)
assert "laur.serve.observe.otel" not in sys.modules, "off costs an import"
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")], "off costs an import"
import os
on = open_tracing("laur-x", os.environ)
with on.request("GET", "/x", {}) as span:
    span.answered("GET /x", 200)
on.close()
"""


def test_off_imports_nothing_and_the_console_shows_what_is_on():
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "console", "OTEL_RESOURCE_ATTRIBUTES": "team=a"}
    ended = subprocess.run(
        [sys.executable, "-c", CONSOLE], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    span = json.loads(ended.stdout)
    assert (span["name"], span["kind"]) == ("GET /x", "SpanKind.SERVER")
    assert span["resource"]["attributes"]["service.name"] == "laur-x"
    assert span["resource"]["attributes"]["team"] == "a"


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes what an exporter sends."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, self.headers["Content-Type"], body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def test_spans_arrive_at_a_collector(monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as collector:
        collector.taken = []
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        tracing = open_tracing("laur-serve")
        with tracing.request("GET", "/v1/queue", {}) as span:
            span.answered("GET /v1/queue", 200)
        tracing.close()
        collector.shutdown()
    [(path, kind, body)] = collector.taken
    assert (path, kind) == ("/v1/traces", "application/x-protobuf")
    assert b"laur-serve" in body
    assert b"/v1/queue" in body
