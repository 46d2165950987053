"""A web server on this machine that says what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Answer:
    """One answer."""

    body: bytes = b""
    kind: str = "application/json"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Close the connection after so many bytes of a body that was said to be longer."""


@dataclass
class Asked:
    """One request."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


class Server:
    """Answers by path: one, or several in turn of which the last stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer] | Callable[[Asked], Answer]] = {}
        self.asked: list[Asked] = []
        self.address = ""

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        known = self.answers.get(asked.path)
        if known is None:
            return Answer(b"not found", "text/html", 404)
        if callable(known):
            return known(asked)
        return known.pop(0) if len(known) > 1 else known[0]

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            found = server.answer(Asked(parts.path, dict(parse_qsl(parts.query)), dict(self.headers)))
            self.send_response(found.status)
            self.send_header("Content-Type", found.kind)
            self.send_header("Content-Length", str(len(found.body)))
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found.body if found.cut is None else found.body[: found.cut])
            if found.cut is not None:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.address = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def quick(sleeps: list[float] | None = None, **settings: Any) -> Any:
    """A Web that does not wait; `sleeps` takes down how long it would have."""
    from laur.train.data.sources.web import Web

    kept = [] if sleeps is None else sleeps
    return Web(settings.pop("per_second", 1e9), sleep=kept.append, **settings)
