"""A Redis for the whole session, and queues of both kinds: every test of queues runs against each."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

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
