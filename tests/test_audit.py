"""The audit of dependencies, beside a service that answers as OSV does."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "audit.py"


class Service(BaseHTTPRequestHandler):
    asked: ClassVar[list] = []

    def do_POST(self):
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        Service.asked = queries
        results = [{"vulns": [{"id": "PYSEC-1"}]} if q["package"]["name"] == "old" else {} for q in queries]
        content = json.dumps({"results": results}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def service():
    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def audit(service, tmp_path, pins, *options):
    (tmp_path / "pins.txt").write_text(pins)
    command = [sys.executable, str(SCRIPT), "--pins", str(tmp_path / "pins.txt"), *options]
    environment = {**os.environ, "LAUR_OSV": service}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_what_is_vulnerable_is_named(service, tmp_path):
    done = audit(service, tmp_path, "# pins\nold==1.0\nnew==2.0 # why\nother==3 ; python_version > '3'\n")
    assert done.returncode == 1
    assert "old 1.0: https://osv.dev/PYSEC-1" in done.stdout
    asked = [(query["package"]["name"], query["version"]) for query in Service.asked]
    assert asked == [("old", "1.0"), ("new", "2.0"), ("other", "3")]
    assert audit(service, tmp_path, "new==2.0\n").returncode == 0


def test_where_nobody_can_be_asked_it_says_so(tmp_path):
    for options, code in (((), 3), (("--if-reachable",), 0)):
        done = audit("http://127.0.0.1:9", tmp_path, "new==2.0\n", *options)
        assert done.returncode == code
        assert done.stderr.startswith("NOT AUDITED")
        assert "vulnerabilities" not in done.stdout
