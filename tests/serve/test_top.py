"""`laur top` over the real server, with an engine that draws nothing."""

import http.server
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import httpx2
import pytest
from fake_engine import FakeEngine
from server import serving

from helpers.redis_server import free_port
from laur.cli.app import run
from laur.serve.observe.histogram import Histogram
from laur.serve.observe.scraped import Scraped, Spread, grown, most, total


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("top"), FakeEngine(seconds=0.01)) as running:
        yield running


def draw(server, count, prompt="a fox"):
    with httpx2.Client(base_url=server.url, timeout=30.0) as http:
        for _ in range(count):
            number = http.post("/v1/jobs", json={"recipe": {"prompt": prompt}}).json()["id"]
            while http.get(f"/v1/jobs/{number}").json()["state"] in {"queued", "running"}:
                time.sleep(0.01)


def test_one_frame(server, capsys):
    draw(server, 5)
    draw(server, 1, "refuse")
    assert run(["top", server.url.removeprefix("http://"), "--once", "--every", "0.2"]) == 0
    said = capsys.readouterr().out
    facts = dict(line.split(maxsplit=1) for line in said.splitlines() if line)
    assert facts["queue"].startswith("0 waiting, 0 running, oldest 0.0 s, 0 parked; 1 worker")
    assert facts["pictures"].endswith("5 done, 1 failed, 0 refused")
    assert re.search(r"p50 \d+\.\d m?s, p95", facts["pictures"])
    assert re.search(r"^\d+\.\d ms mean.*; 1\.0 rows a step, batches 12 % full", facts["steps"])
    assert facts["caches"].startswith("results 0 %, files 0 %, texts –")
    assert facts["objective"].startswith("83.33% done of 99.00%, error budget -1567 % left; 0 retries")
    assert re.match(r"cpu\s+mini\s+ready\s+0\s+\d", facts["0"])
    assert "\x1b" not in said
    assert all(line == line.rstrip() for line in said.splitlines())


def test_several_servers_and_one_that_is_away(server, capsys):
    away = f"http://127.0.0.1:{free_port()}"
    assert run(["top", server.url, away, "--once", "--every", "0.2"]) == 0
    said = capsys.readouterr().out
    assert f"{away}" in said
    assert "does not answer" in said


def test_a_server_that_cannot_be_reached_is_one_line(capsys):
    assert run(["top", f"http://127.0.0.1:{free_port()}"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"laur: cannot reach http://127.0.0.1:\d+: .*; is `laur serve` running there\?\n", said.err)
    assert run(["top", "http://[::"]) == 1
    assert "is no address" in capsys.readouterr().err


class Other(http.server.BaseHTTPRequestHandler):
    """A server of another kind, or one that asks for a key."""

    def do_GET(self):
        locked = "locked" in self.path and self.headers["Authorization"] != "Bearer k"
        self.send_response(401 if locked else 403 if "other" in self.path else 200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>" if "locked" not in self.path else b"laur_queue_up 1.0\n")

    def log_message(self, *arguments):
        pass


def test_another_server_and_one_that_asks_for_a_key(capsys, monkeypatch):
    monkeypatch.delenv("LAUR_API_KEY", raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{other.server_port}"
        assert run(["top", address]) == 1
        assert "answers, but not as `laur serve` does" in capsys.readouterr().err
        assert run(["top", f"{address}/locked"]) == 1
        assert "set LAUR_API_KEY" in capsys.readouterr().err
        monkeypatch.setenv("LAUR_API_KEY", "k")
        assert run(["top", f"{address}/other"]) == 1
        assert "does not let the key" in capsys.readouterr().err
        assert run(["top", f"{address}/locked", "--once", "--every", "0.2"]) == 0
        other.shutdown()


def test_a_terminal_is_drawn_again_and_again_until_ctrl_c(server):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "laur", "top", server.url, "--every", "0.2"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env=environment, start_new_session=True)
    os.close(follower)
    said = b""
    while said.count(b"waiting") < 3:
        said += os.read(leader, 4096)
    process.send_signal(signal.SIGINT)
    while True:  # or it could not write its last
        try:
            said += os.read(leader, 4096)
        except OSError:
            break
    assert process.wait() == 130
    assert b"Traceback" not in said


def scraped(name, histogram, at=0.0):
    rows = [(f"{name}_bucket", {"le": le}, count) for le, count in histogram.buckets()]
    return Scraped("u", at, (*rows, (f"{name}_sum", {}, histogram.sum)))


def test_quantiles_are_prometheus_s():
    histogram = Histogram((1.0, 2.0, 4.0))
    for value in (0.5, 1.0, 1.5, 3.0, 9.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 3), ("4.0", 4), ("+Inf", 5)]
    spread = Spread.of([scraped("x", histogram)], [], "x")
    assert (spread.count, spread.mean) == (5, 3.0)
    assert spread.quantile(0.2) == 0.5
    assert spread.quantile(0.5) == 1.5
    assert spread.quantile(0.7) == pytest.approx(3.0)
    assert spread.quantile(0.99) == 4.0  # nothing is known above the last bound
    assert Spread((), 0.0).quantile(0.5) is None


def test_what_happened_lately_counts_and_otherwise_all():
    early, late = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    early.observe(0.5)
    for value in (0.5, 1.5, 1.5):
        late.observe(value)
    now, before = [scraped("x", late)], [scraped("x", early)]
    assert Spread.of(now, before, "x").mean == 1.5
    assert Spread.of(now, now, "x").count == 3
    assert Spread.of(before, now, "x").count == 1  # it began anew


def test_counters_and_gauges_of_several_processes():
    one = Scraped.read(
        "a", 0.0, '# TYPE c counter\nc_total{engine="0"} 3\nc_total{engine="1"} 4\n# TYPE g gauge\ng 2\n'
    )
    two = Scraped.read("b", 0.0, '# TYPE c counter\nc_total{engine="0"} 1\n# TYPE g gauge\ng 5\n')
    assert total([one, two], "c_total") == 8
    assert total([one, two], "c_total", engine="0") == 4
    assert (most([one, two], "g"), most([one, two], "none")) == (5, None)
    assert (grown([one], [two], "c_total"), grown([two], [one], "c_total")) == (6, 1)
