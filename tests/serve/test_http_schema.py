"""Whatever schemathesis makes of the OpenAPI document: no fault of the server, and only answers that it announces."""

import os
import warnings

import httpx2
import pytest
from fake_engine import FakeEngine
from hypothesis import HealthCheck, Phase, given, settings
from server import serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import CHECKS, load_all_checks

    load_all_checks()

# schemathesis' own generators use `random`
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
EXAMPLES = int(os.environ.get("LAUR_SCHEMA_EXAMPLES", "6"))
NAMES = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
OPERATIONS = [
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs/{id}"),
    ("DELETE", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}/events"),
    ("GET", "/v1/jobs/{id}/picture"),
    ("GET", "/v1/pictures/{key}"),
    ("POST", "/v1/inputs"),
    ("DELETE", "/v1/inputs/{ref}"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files/{id}"),
    ("DELETE", "/v1/files/{id}"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"),
    ("POST", "/v1/images/variations"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/sdapi/v1/txt2img"),
    ("POST", "/sdapi/v1/img2img"),
    ("POST", "/sdapi/v1/options"),
    ("POST", "/sdapi/v1/png-info"),
    ("POST", "/predictions"),
    ("PUT", "/predictions/{id}"),
    ("POST", "/predictions/{id}/cancel"),
    ("POST", "/trainings"),
    ("PUT", "/trainings/{id}"),
    ("GET", "/v1/trainings/{id}"),
    ("POST", "/v1/predictions"),
    ("GET", "/v1/predictions/{id}"),
    ("POST", "/v1/models/{owner}/{name}/predictions"),
    ("GET", "/v1/models/{owner}/{name}/versions/{version}"),
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    with serving(
        tmp_path_factory.mktemp("schema"), FakeEngine(), limits={"pixels": 256 * 256, "steps": 20}, trains=True
    ) as server:
        document = httpx2.get(f"{server.url}/openapi.json").json()
        loaded = schemathesis.openapi.from_dict(document)
        loaded.config.update(base_url=server.url)
        yield loaded


def test_every_operation_is_known(schema):
    assert {(op.ok().method.upper(), op.ok().path) for op in schema.get_all_operations()} >= set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_those_announced(schema, method, path):
    checks = CHECKS.get_by_names(list(NAMES))

    @given(case=schema[path][method].as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def look(case):
        case.call_and_validate(checks=checks, timeout=20)

    look()


def test_fuzzed_bodies_never_reach_a_traceback(tmp_path):
    """Bytes that are no JSON, JSON of every wrong shape, and deep nesting, to every POST."""
    bodies = [b"", b"{", b"\xff\xfe", b"null", b"1e999", b"[" * 5000, b'{"prompt": "\\ud800"}', b'{"input": []}',
              b'{"recipe": {"prompt": "x", "seed": 1e400}}', b'{"image": "data:,"}', b'{"prompt": "x", "n": true}',
              b'{"input": {"prompt": "x", "seed": -1}}', b'{"prompt": "' + b"x" * 20000 + b'"}']  # fmt: skip
    paths = [path.format(id="a") for method, path in OPERATIONS if method == "POST" and "{owner}" not in path]
    with serving(tmp_path) as server, httpx2.Client(base_url=server.url) as http:
        for path in paths:
            for body in bodies:
                answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
                assert answer.status_code < 500, (path, body[:60], answer.text)
                assert "Traceback" not in answer.text
