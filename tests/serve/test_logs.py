"""One line for a request and one for a job, with ids and without secrets, all in one form."""

import io
import json
import logging
import signal
import socket
import subprocess
import sys
import time

import httpx2
import pytest
from fake_engine import FakeEngine
from server import serving

from helpers.redis_server import free_port
from laur.serve.observe.logs import JsonFormatter, LogFormat, TextFormatter, about, set_up
from laur.serve.observe.redact import redact


class Lines(logging.Handler):
    """What is logged, as JSON would have it."""

    def __init__(self):
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines = []

    def emit(self, record):
        self.lines.append(json.loads(self.format(record)))

    def of(self, **wanted):
        """Those with these fields; a request's line is written after its answer was sent."""
        until = time.monotonic() + 5
        while True:
            found = [line for line in self.lines if all(line.get(name) == value for name, value in wanted.items())]
            if found or time.monotonic() > until:
                return found
            time.sleep(0.01)


@pytest.fixture
def lines():
    handler, root = Lines(), logging.getLogger()
    before, root.level = root.level, logging.INFO
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


def test_a_request_and_its_job_can_be_followed(tmp_path, lines):
    with serving(tmp_path) as running, httpx2.Client(base_url=running.url, timeout=30.0) as http:
        headers = {"X-Request-ID": "ticket-42", "Laur-Tenant": "acme", "Authorization": "Bearer sk-hidden-key"}
        body = {"recipe": {"prompt": "a fox", "seed": 1}}
        answer = http.post("/v1/jobs?api_key=hidden-too", json=body, headers=headers)
        number = answer.json()["id"]
        assert answer.headers["x-request-id"] == "ticket-42"
        while http.get(f"/v1/jobs/{number}").json()["state"] != "done":
            time.sleep(0.02)
        [ended] = lines.of(job=number, outcome="done")
    [asked] = lines.of(logger="laur.access", request_id="ticket-42")
    assert (asked["method"], asked["path"], asked["route"]) == ("POST", "/v1/jobs", "POST /v1/jobs")
    assert (asked["status"], asked["client"]) == (202, "127.0.0.1")
    assert asked["tenant"] == "acme"
    assert asked["seconds"] >= 0
    assert asked["bytes"] == len(answer.content)
    assert (ended["tenant"], ended["request_id"]) == ("acme", "ticket-42")
    assert "hidden" not in json.dumps(lines.lines)


def test_every_request_has_an_id_and_one_line(tmp_path, lines):
    with serving(tmp_path) as running, httpx2.Client(base_url=running.url, timeout=30.0) as http:
        for given in ("", "two words", "x" * 200, 'a"b', "\u00e9"):
            header = {"X-Request-ID": given.encode()} if given else {}
            own = http.get("/health/live", headers=header).headers["x-request-id"]
            assert len(own) == 32
            assert len(lines.of(logger="laur.access", request_id=own)) == 1
        for path, status, route in (("/nothing", 404, "other"), ("/v1/jobs/none", 404, "GET /v1/jobs/{id}")):
            number = http.get(path).headers["x-request-id"]
            [line] = lines.of(request_id=number)
            assert (line["status"], line["route"]) == (status, route)

        async def broken(id):
            raise RuntimeError("here")

        running.app.state.service.queue.get = broken
        answer = http.get("/v1/jobs/x")
        [line] = lines.of(logger="laur.access", request_id=answer.headers["x-request-id"])
        assert line["status"] == answer.status_code == 500
        faults = lines.of(request_id=answer.headers["x-request-id"], level="error")
        assert "RuntimeError: here" in faults[0]["error"]


def test_a_job_that_breaks_is_named(tmp_path, lines):
    with serving(tmp_path, FakeEngine(), queue={"max_attempts": 1}) as running:
        with httpx2.Client(base_url=running.url, timeout=30.0) as http:
            number = http.post("/v1/jobs", json={"recipe": {"prompt": "crash"}}).json()["id"]
            while http.get(f"/v1/jobs/{number}").json()["state"] != "failed":
                time.sleep(0.02)
        assert any("error" in line for line in lines.of(job=number, level="error"))
        assert lines.of(job=number, outcome="failed")


@pytest.mark.parametrize(
    "text",
    [
        "redis://user:HIDDEN@queue:6379/0 does not answer",
        "redis://:HIDDEN@queue",
        "s3://HIDDEN:HIDDEN@bucket/x",
        "Authorization: Bearer HIDDEN.HIDDEN-1",
        "authorization: Basic HIDDEN==",
        "sent bearer HIDDEN12 on",
        "{'api_key': 'HIDDEN', 'x': 1}",
        '{"aws_secret_access_key": "HIDDEN"}',
        "X-Amz-Signature=HIDDEN&X-Amz-Credential=HIDDEN&x=1",
        "password=HIDDEN, user=me",
        "Cookie: HIDDEN",
        "HF_TOKEN=HIDDEN",
    ],
)
def test_secrets_are_hidden(text):
    assert "HIDDEN" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize("text", ["77 tokens: too many", "redis://queue:6379/0", "mail a@b.c", "https://x.y/z?a=1"])
def test_other_words_stay(text):
    assert redact(text) == text


def test_text_is_one_line_of_printable_characters():
    record = logging.makeLogRecord({"msg": "a\nb\x1b[31m %s", "args": ("c\r",), "levelno": 30, "levelname": "WARNING"})
    with about(job="j1", tenant=None):
        text = TextFormatter().format(record)
    assert text.partition(" ")[2] == r"warning: a\nb\x1b[31m c\r job=j1"


def test_json_has_what_was_given_and_hides_what_must_not_be_seen():
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up(LogFormat.JSON, stream)
        with about(request_id="r"):
            logging.getLogger("x").info("at %s", "redis://:hidden@h", extra={"seconds": 0.5, "url": "s3://a:hidden@b"})
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"], line["request_id"], line["seconds"]) == ("info", "x", "r", 0.5)
    assert line["time"].endswith("+00:00")
    assert "hidden" not in stream.getvalue()


def test_a_line_goes_where_standard_error_is_by_then(monkeypatch):
    """What it was at the start may be closed, and is forgotten."""
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    set_up(LogFormat.JSON)
    logging.getLogger("x").info("one")
    monkeypatch.setattr(sys, "stderr", second)
    said = first.getvalue()
    first.close()
    logging.getLogger("x").info("two")
    assert [json.loads(text)["message"] for text in (said, second.getvalue())] == ["one", "two"]


def test_all_of_a_servers_lines_are_json(tmp_path):
    """Uvicorn's own too: it complains of what is no HTTP."""
    port = free_port()
    command = [sys.executable, "-m", "laur", "serve", "--port", str(port), "--no-measure", "--log-format", "json"]
    with (tmp_path / "log").open("w") as errors:
        process = subprocess.Popen([*command, "--store", str(tmp_path / "results")], stderr=errors)
    try:
        while True:
            assert process.poll() is None
            try:
                httpx2.get(f"http://127.0.0.1:{port}/health/live")
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        with socket.create_connection(("127.0.0.1", port)) as wire:
            wire.sendall(b"no http\r\n\r\n")
            wire.recv(100)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"laur", "laur.access", "uvicorn.error"} <= {line["logger"] for line in lines}
