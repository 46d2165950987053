"""The queue over a Redis that is full, or whose disk fails: refused in one line, and nothing that is there is lost."""

import asyncio
import time

import httpx2
import pytest
from fake_engine import FakeEngine
from kit import CARD, job, result, working
from redis.exceptions import ResponseError
from server import serving

from helpers.redis_server import RedisServer, require_redis
from laur.core.errors import UnavailableError
from laur.serve.job import State
from laur.serve.queue import QueueOptions, open_queue
from laur.serve.queue.link import code_of
from laur.serve.store import Store

pytestmark = pytest.mark.anyio
FILLER = 8_000_000
"""Bytes; above the small Redis's maxmemory."""


@pytest.fixture
def small_redis(tmp_path):
    require_redis()
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", "--maxmemory", "6mb", "--maxmemory-policy", "noeviction")
    server.start()
    yield server
    server.stop()


async def fill(queue):
    await queue.link.client.setrange("filler", FILLER, "x")


async def make_room(queue):
    await queue.link.client.delete("filler")


async def test_a_full_redis_refuses_jobs_at_once_and_ends_those_that_are_there(small_redis):
    queue = open_queue(small_redis.url, QueueOptions(lease=5.0))
    for name in ("done", "failed", "back", "gone"):
        await queue.submit(job(id=name))
    assert await queue.trouble() is None
    await fill(queue)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"^Redis is full; raise its maxmemory.*$") as refused:
        await queue.submit(job(id="late"))
    assert time.monotonic() - began < queue.options.outage / 4
    assert "\n" not in str(refused.value)
    assert "Redis is full" in await queue.trouble()
    assert not await queue.ping()
    leases = {lease.job.id: lease for lease in await queue.claim(CARD, 4)}
    for lease in leases.values():
        assert await queue.start(lease)
    assert await queue.renew(list(leases.values())) == []
    assert await queue.finish(leases["done"], result())
    await queue.release(leases["back"])
    assert (await queue.cancel("gone")).state is State.CANCELLED
    await queue.sweep()
    states = [(await queue.get(name)).state for name in ("done", "back", "gone")]
    assert states == [State.DONE, State.QUEUED, State.CANCELLED]
    await make_room(queue)
    assert (await queue.submit(job(id="late"))).state is State.QUEUED
    assert await queue.trouble() is None
    await queue.close()


async def test_a_worker_draws_what_waits_in_a_full_redis(small_redis, tmp_path):
    queue, engine = open_queue(small_redis.url, QueueOptions(lease=5.0)), FakeEngine(seconds=0.01)
    jobs = [job(prompt, recipe={"seed": 1}) for prompt in ("good", "fine", "refuse")]
    for wish in jobs:
        await queue.submit(wish)
    await fill(queue)
    async with working(queue, Store(tmp_path / "results"), engine) as worker:
        records = [await queue.wait(wish.id, 20.0) for wish in jobs]
        while len(worker.hand):
            await asyncio.sleep(0.01)
    assert [record.state for record in records] == [State.DONE, State.DONE, State.FAILED]
    assert {record.attempts for record in records} == {1}
    await queue.close()


async def test_clients_are_told_to_come_back(small_redis, tmp_path):
    queue = open_queue(small_redis.url)
    with (
        serving(tmp_path, redis=small_redis.url, work=False) as running,
        httpx2.Client(base_url=running.url, timeout=30.0) as http,
    ):
        body = {"recipe": {"prompt": "a fox"}}
        assert http.get("/health/ready").status_code == 200
        await fill(queue)
        said = await asyncio.to_thread(http.post, "/v1/jobs", json=body)
        assert (said.status_code, said.json()["title"]) == (503, "UnavailableError")
        assert int(said.headers["Retry-After"]) > 0
        ready = http.get("/health/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, [said.json()["detail"]])
        assert http.get("/health/live").status_code == 200
        await make_room(queue)
        assert http.post("/v1/jobs", json=body).status_code == 202
        assert http.get("/health/ready").status_code == 200
    await queue.close()


async def test_a_picture_outlives_a_disk_that_fails_under_redis(own_redis, tmp_path):
    queue, engine = open_queue(own_redis.url, QueueOptions(lease=3.0)), FakeEngine(seconds=0.01)
    engine.gate.clear()
    wish = job(recipe={"seed": 1})
    await queue.submit(wish)
    client = queue.link.client
    await client.config_set("save", "3600 100000")
    async with working(queue, Store(tmp_path / "results"), engine):
        while not engine.begun:
            await asyncio.sleep(0.01)
        (tmp_path / "redis" / "dump.rdb").mkdir()  # what cannot be replaced by a file
        await _save(client, "err")
        with pytest.raises(UnavailableError, match="cannot write to its disk"):
            await queue.submit(job())
        assert "disk" in await queue.trouble()
        engine.gate.set()
        await asyncio.sleep(0.5)
        assert (await queue.get(wish.id)).state is State.RUNNING
        (tmp_path / "redis" / "dump.rdb").rmdir()
        await _save(client, "ok")
        assert (await queue.wait(wish.id, 20.0)).state is State.DONE
    await queue.close()


async def _save(client, status):
    await client.bgsave()
    while True:
        told = await client.info("persistence")
        if not told["rdb_bgsave_in_progress"] and told["rdb_last_bgsave_status"] == status:
            return
        await asyncio.sleep(0.02)


async def test_what_the_queue_refuses_is_let_go_of_all_the_same(make_queue, tmp_path, monkeypatch):
    queue, engine = make_queue(), FakeEngine(seconds=0.01)

    async def broken(lease, failure):
        raise RuntimeError("WRONGTYPE")

    monkeypatch.setattr(queue, "fail", broken)
    await queue.submit(job("refuse"))
    async with working(queue, Store(tmp_path / "results"), engine) as worker:
        while not engine.begun:
            await asyncio.sleep(0.01)
        while len(worker.hand):
            await asyncio.sleep(0.01)


async def test_an_unreachable_queue_is_not_the_jobs_fault(make_queue, tmp_path, monkeypatch):
    queue, engine = make_queue(), FakeEngine(seconds=0.01)
    start, away = queue.start, [True]

    async def sometimes(lease):
        if away and away.pop():
            raise UnavailableError("Redis does not answer")
        return await start(lease)

    monkeypatch.setattr(queue, "start", sometimes)
    wish = job(recipe={"seed": 1})
    await queue.submit(wish)
    async with working(queue, Store(tmp_path / "results"), engine):
        record = await queue.wait(wish.id, 20.0)
    assert (record.state, record.attempts, away) == (State.DONE, 1, [])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Error running script (call to f_ab): @user_script:12: -OOM command not allowed when used memory", "OOM"),
        ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.", "MISCONF"),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL", "BUSY"),
        ("BUSYGROUP Consumer Group name already exists", ""),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ""),
    ],
)
async def test_replies_are_known_by_their_first_word(text, code):
    assert code_of(ResponseError(text)) == code
