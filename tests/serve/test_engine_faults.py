"""An Engine that breaks: no job is lost or held, the process says that it must be started anew and ends."""

import asyncio
import threading
import time

import httpx2
import pytest
from fake_engine import FakeEngine
from kit import hire, job, working
from server import serving

from helpers.redis_server import free_port
from laur.core.errors import UnavailableError
from laur.pipeline.engine import Engine
from laur.serve import start
from laur.serve.http.app import create_worker_app
from laur.serve.job import State
from laur.serve.queue import open_queue
from laur.serve.store import Store
from laur.serve.worker.crew import Crew

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


async def hand_in(queue, *prompts, **recipe):
    jobs = [job(prompt, recipe={"seed": number, **recipe}) for number, prompt in enumerate(prompts)]
    for wish in jobs:
        await queue.submit(wish)
    return jobs


async def test_what_is_not_taken_fails_alone(make_queue, store):
    queue, engine = make_queue(max_attempts=2, retry_delay=0.05), FakeEngine(seconds=0.01)
    good, bad, fine = await hand_in(queue, "good", "unsubmittable", "fine")
    async with working(queue, store, engine) as worker:
        records = [await queue.wait(wish.id, 20.0) for wish in (good, bad, fine)]
        assert worker.live
    assert [record.state for record in records] == [State.DONE, State.FAILED, State.DONE]
    assert [record.attempts for record in records] == [1, 2, 1]
    assert "secret" not in records[1].failure.message
    assert worker.tally.states == {"done": 2, "failed": 1}


async def test_a_thread_that_ends_hands_everything_back_and_another_worker_draws_it(make_queue, store):
    queue, engine = make_queue(retry_delay=0.05), FakeEngine(seconds=0.02)
    jobs = await hand_in(queue, *"abcdef", steps=40)
    worker = hire(queue, store, lambda: engine)
    running = asyncio.create_task(worker.run())
    while not engine.begun:
        await asyncio.sleep(0.01)
    engine.faulty = {"cancel"}
    await queue.cancel(jobs[0].id)
    with pytest.raises(UnavailableError, match="unexpected RuntimeError"):
        await running
    assert (worker.live, worker.ready, len(worker.hand)) == (False, False, 0)
    stats = await queue.stats()
    assert (stats.running, stats.waiting) == (0, 5)
    async with working(queue, store, FakeEngine()):
        records = [await queue.wait(wish.id, 20.0) for wish in jobs[1:]]
    assert {record.state for record in records} == {State.DONE}
    assert {record.attempts for record in records} <= {1, 2}


async def test_a_job_that_ends_every_thread_is_parked_and_takes_no_other_with_it(make_queue, store):
    queue = make_queue(max_attempts=3, retry_delay=0.05)
    bad, *others = await hand_in(queue, "unspeakable", "good", "fine")
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await hire(queue, store, lambda: FakeEngine(seconds=0.01)).run()
    async with working(queue, store, FakeEngine()):
        records = [await queue.wait(wish.id, 20.0) for wish in (bad, *others)]
    assert [record.state for record in records] == [State.FAILED, State.DONE, State.DONE]
    assert (records[0].failure.kind, records[0].attempts) == ("poison", 3)


async def test_a_device_that_is_broken_for_good_ends_the_worker(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.01)
    engine.faulty = {"step"}
    jobs = await hand_in(queue, *"abcd")
    worker = hire(queue, store, lambda: engine)
    with pytest.raises(UnavailableError, match="3 unexpected faults in a row"):
        await worker.run()
    assert not worker.live
    assert worker.tally.states["failed"] == 0
    for wish in jobs:
        record = await queue.get(wish.id)
        assert record.state is State.QUEUED
        assert record.attempts <= 1


async def test_jobs_that_break_between_others_that_are_drawn_end_no_worker(make_queue, store):
    queue, engine = make_queue(max_attempts=1), FakeEngine()
    async with working(queue, store, engine) as worker:
        for number in range(5):
            jobs = await hand_in(queue, "crash", f"good {number}")
            records = [await queue.wait(wish.id, 20.0) for wish in jobs]
            assert [record.state for record in records] == [State.FAILED, State.DONE]
        assert worker.live


async def test_what_cannot_be_traced_keeps_no_job_from_its_end(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.01)
    jobs = await hand_in(queue, *"abc")

    def broken(*arguments):
        raise RuntimeError("no trace")

    async with working(queue, store, engine) as worker:
        worker.tally.stages["prepare"] = None
        worker.tracing = type("Broken", (), {"call": broken, "taken": worker.tracing.taken})()
        for wish in jobs:
            assert (await queue.wait(wish.id, 20.0)).state is State.DONE


async def test_an_attempt_that_is_repeated_is_no_end(make_queue, store):
    queue = make_queue(max_attempts=3, retry_delay=0.05)
    [wish] = await hand_in(queue, "crash")
    async with working(queue, store, FakeEngine()) as worker:
        assert (await queue.wait(wish.id, 20.0)).state is State.FAILED
    assert worker.tally.states == {"failed": 1}


def test_probes_of_a_server_with_a_broken_engine_ask_for_another(tmp_path):
    engine = FakeEngine()
    with serving(tmp_path, engine) as running, httpx2.Client(base_url=running.url, timeout=30.0) as http:
        running.until_ready()
        assert http.get("/health/live").status_code == 200
        engine.faulty = {"busy"}
        while http.get("/health/live").status_code != 503:
            time.sleep(0.02)
        said = http.get("/health/ready")
        assert (said.status_code, said.json()["reasons"]) == (503, http.get("/health/live").json()["reasons"])
        assert "unexpected RuntimeError" in said.text
        assert "secret" not in said.text


def test_a_process_whose_engine_ends_exits_with_its_fault(store):
    engine = FakeEngine()
    crew = Crew([hire(open_queue(None), store, lambda: engine)])

    def spoil():
        while not crew.ready:
            time.sleep(0.01)
        engine.faulty = {"busy"}

    spoiling = threading.Thread(target=spoil)
    spoiling.start()
    with pytest.raises(UnavailableError, match="unexpected RuntimeError") as ended:
        start.run(lambda stop: create_worker_app(crew, stop=stop), "127.0.0.1", free_port(), 1.0)
    spoiling.join()
    assert ended.value.exit_code == 1


def test_a_ticket_that_nobody_gets_is_not_drawn():
    engine = Engine()

    def broken(*arguments):
        raise RuntimeError("no disk")

    resolved = engine.resolve(job().recipe)
    engine.library.rows.prefetch = broken
    with pytest.raises(RuntimeError, match="no disk"):
        engine.submit(resolved.plan, resolved.recipe)
    assert not engine.busy
