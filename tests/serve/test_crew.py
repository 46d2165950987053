"""Several engines in one process; adapters that are read while jobs wait; probes that tell the truth."""

import asyncio
import threading
import time

import kit
import pytest
from fake_engine import FakeEngine
from kit import at_work, job, short_hash

from helpers.redis_server import Proxy
from laur.core.errors import ResourceError
from laur.serve.job import State
from laur.serve.queue import QueueOptions, open_queue
from laur.serve.store import Store
from laur.serve.worker.crew import Crew
from laur.serve.worker.names import Names

pytestmark = pytest.mark.anyio


class AnyNames(Names):
    """Adapters of any name."""

    def check_adapter(self, name):
        pass


def hire(queue, store, make, **options):
    return kit.hire(queue, store, make, names=AnyNames(), cap=2, **{"grace": 5.0, **options})


async def until(true):
    end = time.monotonic() + 15
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


async def test_each_engine_takes_what_it_can_and_the_faster_takes_more(make_queue, store):
    queue = make_queue()
    fast, slow = FakeEngine(seconds=0.005), FakeEngine(seconds=0.1)
    crew = Crew([hire(queue, store, lambda: fast, name="f"), hire(queue, store, lambda: slow, name="s")])
    jobs = [job(f"p{n}", recipe={"seed": n}) for n in range(24)]
    for wish in jobs:
        await queue.submit(wish)
    async with at_work(crew, fast, slow):
        for wish in jobs:
            assert (await queue.wait(wish.id, 20.0)).state is State.DONE
        assert crew.ready
        assert crew.live
    assert len(fast.begun) + len(slow.begun) == 24
    assert len(fast.begun) > len(slow.begun) > 0
    assert [worker.tally.states["done"] for worker in crew.workers] == [len(fast.begun), len(slow.begun)]


async def test_an_engine_that_cannot_open_ends_them_all(make_queue, store):
    queue, good = make_queue(), FakeEngine()

    def broken():
        raise ResourceError("no memory on cuda:1")

    crew = Crew([hire(queue, store, lambda: good, name="a"), hire(queue, store, broken, name="b")])
    with pytest.raises(ResourceError, match="cuda:1"):
        await crew.run()
    assert isinstance(crew.fault, ResourceError)


async def test_a_fault_of_any_kind_while_opening_is_not_waited_for(make_queue, store):
    def broken():
        raise RuntimeError("driver")

    with pytest.raises(RuntimeError, match="driver"):
        await Crew([hire(make_queue(), store, broken)]).run()


async def test_readiness_says_why_not(make_queue, store):
    queue, engine, opened = make_queue(), FakeEngine(), threading.Event()

    def make():
        opened.wait()
        return engine

    crew = Crew([hire(queue, store, make)])
    assert crew.live
    async with at_work(crew):
        await asyncio.sleep(0.1)
        assert (crew.ready, crew.live, crew.reason) == (False, True, "the engine is being loaded")
        opened.set()
        await until(lambda: crew.ready)
        assert crew.reason is None
        crew.drain()
        assert (crew.ready, crew.live, crew.reason) == (False, True, "it is draining")


async def test_a_worker_is_not_ready_before_its_queue_has_answered(make_queue, store, monkeypatch):
    queue, answers = make_queue(), asyncio.Event()
    claim = queue.claim

    async def slowly(*args, **kwargs):
        await answers.wait()
        return await claim(*args, **kwargs)

    monkeypatch.setattr(queue, "claim", slowly)
    crew = Crew([hire(queue, store, FakeEngine)])
    async with at_work(crew):
        await until(lambda: crew.workers[0].loaded)
        before = (crew.ready, crew.live, crew.reason)
        answers.set()
        await until(lambda: crew.ready)
        assert crew.reason is None
    assert before == (False, True, "the queue has not answered yet")


async def test_readiness_ends_when_redis_goes_and_comes_back_with_it(redis_server, store):
    proxy = Proxy(redis_server.port)
    queue, engine = open_queue(proxy.url, QueueOptions(namespace="ready", lease=0.4, outage=0.3)), FakeEngine()
    crew = Crew([hire(queue, store, lambda: engine)])
    try:
        async with at_work(crew):
            await until(lambda: crew.ready)
            proxy.cut()
            await until(lambda: not crew.ready)
            assert crew.reason == "the queue has not answered for a while"
            assert crew.live
            proxy.mend()
            await until(lambda: crew.ready)
    finally:
        await queue.close()
        proxy.close()


def styled(prompt, name, **recipe):
    return job(prompt, recipe={"adapters": [{"name": name}], "seed": 1, **recipe})


async def test_an_adapter_that_is_being_read_holds_up_nobody(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.01)
    engine.store.slow = True
    worker = hire(queue, store, lambda: engine, load=4.0)
    first, slow, quick = job("first", recipe={"steps": 900}), styled("slow", "far"), job("quick")
    await queue.submit(first)
    async with at_work(Crew([worker]), engine):
        await until(lambda: engine.begun)
        await queue.submit(slow)
        await until(lambda: short_hash("far") in engine.store.asked)
        await queue.submit(quick)
        assert (await queue.wait(quick.id, 15.0)).state is State.DONE
        assert engine.begun == ["first", "quick"]
        assert worker.thread.pulse.delayed == 1
        engine.store.arrive()
        assert (await queue.wait(slow.id, 15.0)).state is State.DONE
        await queue.cancel(first.id)


async def test_what_waits_is_foreseen_while_others_are_drawn(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.02)
    worker = hire(queue, store, lambda: engine, load=1.0)
    going = [job(f"now {n}", recipe={"seed": n, "steps": 400}) for n in range(2)]
    for wish in going:
        await queue.submit(wish)
    async with at_work(Crew([worker]), engine):
        await until(lambda: engine.batches)
        later = styled("later", "style")
        await queue.submit(later)
        await until(lambda: short_hash("style") in engine.store.asked)
        assert (await queue.get(later.id)).state is State.QUEUED
        assert worker.thread.pulse.foreseen == 1
        assert short_hash("style") in worker.card().adapters
        for wish in going:
            await queue.cancel(wish.id)
        assert (await queue.wait(later.id, 15.0)).state is State.DONE
    assert (worker.tally.adapters.hits, worker.tally.adapters.misses) == (1, 0)


async def test_jobs_go_to_the_worker_that_has_their_adapters(make_queue, store):
    """Two styles, two workers, each warm with one of them: both keep to their own."""
    queue = make_queue()
    engines = FakeEngine(seconds=0.02), FakeEngine(seconds=0.02)
    crew = Crew([hire(queue, store, lambda e=e: e, name=f"w{n}", load=1.0) for n, e in enumerate(engines)])
    async with at_work(crew, *engines):
        await until(lambda: crew.ready)
        for n, worker in enumerate(crew.workers):
            worker.thread.foresee(styled("x", f"style {n}").recipe)
        await until(lambda: all(worker.card().adapters for worker in crew.workers))
        jobs = [styled(f"style {n % 2}", f"style {n % 2}", seed=n) for n in range(16)]
        for wish in jobs:
            await queue.submit(wish)
        for wish in jobs:
            await queue.wait(wish.id, 15.0)
    hits = sum(worker.tally.adapters.hits for worker in crew.workers)
    assert hits >= 12
    assert sum(worker.tally.checkpoints.hits for worker in crew.workers) == 16
