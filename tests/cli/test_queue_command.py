"""`laur queue`: what was given up is shown, and waits again when told to."""

import asyncio

import pytest

from helpers.redis_server import RedisServer, require_redis
from laur.core.recipe import Recipe
from laur.serve.job import Failure, Job, State
from laur.serve.queue import QueueOptions, WorkerCard, open_queue


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    require_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


async def _park(url, *ids):
    queue = open_queue(url, QueueOptions(max_attempts=1))
    for number in ids:
        await queue.submit(Job(recipe=Recipe(prompt="a fox"), id=number, tenant="acme"))
        [lease] = await queue.claim(WorkerCard(name="w"), 1)
        await queue.start(lease)
        await queue.fail(lease, Failure(kind="OutputError", message="no\nroom", retry=True))
    await queue.close()


async def _states(url, *ids):
    queue = open_queue(url)
    found = [(record.state, record.attempts) for record in [await queue.get(number) for number in ids]]
    await queue.close()
    return found


def test_parked_jobs_are_listed_and_revived(laur, redis_url):
    assert "no job is parked" in laur("queue", "parked", "--redis", redis_url).err
    asyncio.run(_park(redis_url, "a", "b", "c"))
    lines = laur("queue", "parked", "--redis", redis_url).out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["c", "acme"], ["b", "acme"], ["a", "acme"]]
    assert all(line.endswith("given up after 1 attempts: no room") for line in lines)
    assert len(laur("queue", "parked", "--redis", redis_url, "--count", 2).out.splitlines()) == 2
    assert "1 job waits again" in laur("queue", "revive", "--redis", redis_url, "b").err
    said = laur("queue", "revive", "--redis", redis_url, "b")
    assert (said.code, "job b is not parked" in said.err) == (2, True)
    assert "2 jobs wait again" in laur("queue", "revive", "--redis", redis_url, "--all").err
    assert asyncio.run(_states(redis_url, "a", "b", "c")) == [(State.QUEUED, 0)] * 3


def test_revive_wants_names_or_all(laur, redis_url):
    for more in ([], ["a", "--all"]):
        said = laur("queue", "revive", "--redis", redis_url, *more)
        assert (said.code, "--all" in said.err) == (2, True)
