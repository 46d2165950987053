"""A Redis for the whole session, and queues of both kinds: every test of queues runs against each."""

import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx2
import pytest
from server import Running

from helpers.redis_server import RedisServer, require_redis
from laur.serve.queue import Queue, QueueOptions, open_queue

MakeQueue = Callable[..., Queue]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    require_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One that a test may stop and kill."""
    require_redis()
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", "--appendfsync", "always")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["memory", "redis"])
async def make_queue(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[MakeQueue]:
    """Opens queues over the same jobs; closed when the test ends."""
    opened: list[Queue] = []
    namespace = f"t{secrets.token_hex(4)}"

    def make(**options: object) -> Queue:
        url = request.getfixturevalue("redis_server").url if request.param == "redis" else None
        opened.append(open_queue(url, QueueOptions(namespace=namespace, **options)))  # pyright: ignore
        return opened[-1]

    yield make
    for queue in opened:
        await queue.close()


@pytest.fixture
def http(server: Running) -> Iterator[httpx2.Client]:
    """A client of the server that the test's module starts."""
    with httpx2.Client(base_url=server.url, timeout=30.0) as client:
        yield client


@pytest.fixture
def hook() -> Iterator[tuple[str, list[bytes]]]:
    """A receiver of webhooks that fails twice before it takes one."""
    received: list[bytes] = []
    fails = [2]

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if b'"completed_at":null' not in body and fails[0]:
                fails[0] -= 1
                self.send_response(503)
            else:
                received.append(body)
                self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/hook", received
    listening.shutdown()
    thread.join()
    listening.server_close()
