"""A worker with an engine that draws nothing, over both queues."""

import asyncio
import time

import pytest
from fake_engine import FakeEngine
from kit import CARD, job, working

from laur.core.errors import NotFoundError
from laur.render.metadata import read
from laur.serve.cache import open_index
from laur.serve.events import Preview, Progress
from laur.serve.job import State
from laur.serve.store import Store
from laur.serve.worker.names import Names

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


async def test_jobs_are_drawn_together_and_their_files_are_in_the_store(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.01)
    jobs = [job(f"p{n}", recipe={"seed": n}) for n in range(6)]
    for wish in jobs:
        await queue.submit(wish)
    async with working(queue, store, engine):
        for wish in jobs:
            record = await queue.wait(wish.id, 20.0)
            assert (record.state, record.attempts, record.step) == (State.DONE, 1, 4)
            content = store.get(record.result.key)
            assert read(content).recipe == record.result.recipe
            assert (record.result.size, record.result.cached) == (len(content), False)
    assert max(map(len, engine.batches)) >= 4


async def test_what_a_mix_says_once_it_is_read_is_among_the_results_warnings(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.01)
    engine.told = ("these adapters together change the weights",)
    wish = job(recipe={"seed": 1})
    await queue.submit(wish)
    async with working(queue, store, engine):
        assert (await queue.wait(wish.id, 20.0)).result.warnings == engine.told
        engine.told = ("raise",)
        other = job(recipe={"seed": 2})
        await queue.submit(other)
        record = await queue.wait(other.id, 20.0)
        assert (record.state, record.result.warnings) == (State.DONE, ())


async def test_hands_full_of_one_tenants_jobs_still_take_anothers(make_queue, store):
    queue, engine = make_queue(), FakeEngine()
    engine.gate.clear()
    async with working(queue, store, engine) as worker:
        for number in range(20):
            await queue.submit(job("flood", tenant="flood", id=f"f{number}", recipe={"seed": number}))
        while worker.hand.room():
            await asyncio.sleep(0.01)
        full = len(worker.hand)
        await queue.submit(job("lone", tenant="lone", id="lone", recipe={"seed": 1}))
        while "lone" not in worker.hand.jobs:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len(worker.hand) == full + 1
        engine.gate.set()
        assert (await queue.wait("lone", 20.0)).state is State.DONE


async def test_progress_and_previews_reach_who_watches(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.02)
    wish = job(previews=True, recipe={"seed": 1})
    await queue.submit(wish)
    async with working(queue, store, engine):
        events = [event async for event in queue.watch(wish.id)]
    assert {event.step for event in events if isinstance(event, Progress)} >= {1, 2}
    previews = [event for event in events if isinstance(event, Preview)]
    assert previews
    assert previews[0].data.startswith(b"\xff\xd8")


async def test_cancel_in_the_middle_of_sampling(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.03)
    long, short = job("long", recipe={"steps": 900}), job("short")
    await queue.submit(long)
    await queue.submit(short)
    async with working(queue, store, engine) as worker:
        await queue.wait(short.id, 20.0)
        assert (await queue.cancel(long.id)).state is State.CANCELLED
        while engine.busy or len(worker.hand):
            await asyncio.sleep(0.02)
        assert len(engine.batches) < 300
    assert worker.tally.lost == 1


async def test_a_deadline_is_kept_in_the_middle_of_sampling(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.03)
    wish = job("long", recipe={"steps": 900}, deadline=time.time() + 1.0)
    await queue.submit(wish)
    async with working(queue, store, engine) as worker:
        record = await queue.wait(wish.id, 20.0)
        assert (record.state, record.failure.kind) == (State.FAILED, "deadline")
        while engine.busy or len(worker.hand):
            await asyncio.sleep(0.02)


async def test_faults_stay_with_their_job(make_queue, store):
    """A crash ends its whole batch; the others are drawn, and the crash alone fails in the end."""
    queue, engine = make_queue(max_attempts=2, retry_delay=0.05), FakeEngine(seconds=0.01)
    prompts = ["good", "refuse", "unplannable", "crash", "fine"]
    jobs = {prompt: job(prompt) for prompt in prompts}
    for wish in jobs.values():
        await queue.submit(wish)
    async with working(queue, store, engine):
        records = {prompt: await queue.wait(wish.id, 30.0) for prompt, wish in jobs.items()}
    assert records["good"].state is records["fine"].state is State.DONE
    assert records["good"].attempts == 1
    assert records["refuse"].failure.kind == "NumericalError"
    assert (records["unplannable"].failure.kind, records["unplannable"].failure.status) == ("RecipeError", 422)
    assert records["crash"].failure.kind == "poison"
    assert "secret" not in records["crash"].failure.message


async def test_names_that_are_none_are_refused(make_queue, store, tmp_path):
    queue, engine = make_queue(), FakeEngine()
    (tmp_path / "own.safetensors").write_bytes(b"")
    paths = ["/etc/passwd", str(tmp_path / "own.safetensors"), "../own", "runwayml/stable-diffusion-v1-5"]
    jobs = [job(recipe={"adapters": [{"name": path}]}) for path in paths] + [job(recipe={"style": "/etc/passwd"})]
    for wish in jobs:
        await queue.submit(wish)
    async with working(queue, store, engine):
        for wish in jobs:
            record = await queue.wait(wish.id, 20.0)
            assert (record.state, record.failure.status) == (State.FAILED, 404)
    assert engine.begun == []


def test_names_do_not_say_what_files_there_are(tmp_path):
    (tmp_path / "x-there").write_bytes(b"")
    said = []
    for path in (tmp_path / "x-there", tmp_path / "x-away"):
        with pytest.raises(NotFoundError) as refused:
            Names().check(job(recipe={"checkpoint": str(path)}).recipe)
        said.append(str(refused.value).replace(path.name, "NAME"))
    assert said[0] == said[1]


async def test_a_stampede_is_one_computation(make_queue, store):
    """Ten equal wishes over two workers: one is drawn, ten are done, all with the same file."""
    queue = make_queue()
    index = open_index(queue, 60.0)
    engines = [FakeEngine(seconds=0.05), FakeEngine(seconds=0.05)]
    jobs = [job("same", recipe={"seed": 1}) for _ in range(10)]
    for wish in jobs:
        await queue.submit(wish)
    async with (
        working(queue, store, engines[0], index, name="a") as one,
        working(queue, store, engines[1], index, name="b") as two,
    ):
        records = [await queue.wait(wish.id, 20.0) for wish in jobs]
    assert {record.state for record in records} == {State.DONE}
    assert len({record.result.key for record in records}) == 1
    assert len(engines[0].begun + engines[1].begun) == 1
    assert [record.result.cached for record in records].count(False) == 1
    assert one.tally.misses + two.tally.misses == 1
    assert sum(w.tally.hits + w.tally.collapsed for w in (one, two)) == 9


async def test_who_follows_takes_over_when_the_leader_is_cancelled(make_queue, store):
    queue, engine = make_queue(lease=3.0), FakeEngine()
    engine.gate.clear()
    first, second = (job("same", recipe={"seed": 1}) for _ in range(2))
    await queue.submit(first)
    async with working(queue, store, engine):
        while not engine.begun:
            await asyncio.sleep(0.01)
        await queue.submit(second)
        await asyncio.sleep(0.2)
        await queue.cancel(first.id)
        engine.gate.set()
        assert (await queue.wait(second.id, 20.0)).state is State.DONE


async def test_a_drain_finishes_what_is_drawn_and_takes_nothing_new(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.05)
    going, later = job("going", recipe={"steps": 10}), job("later")
    await queue.submit(going)
    async with working(queue, store, engine) as worker:
        while not engine.begun:
            await asyncio.sleep(0.01)
        assert worker.ready
        worker.drain()
        assert not worker.ready
        assert worker.live
    await queue.submit(later)
    assert (await queue.get(going.id)).state is State.DONE
    assert (await queue.get(later.id)).state is State.QUEUED


async def test_a_drain_hands_back_what_takes_too_long(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.02)
    wish = job("long", recipe={"steps": 900})
    await queue.submit(wish)
    async with working(queue, store, engine, grace=0.3):
        while not engine.begun:
            await asyncio.sleep(0.01)
    record = await queue.get(wish.id)
    assert (record.state, record.attempts) == (State.QUEUED, 0)


async def test_what_ended_attempts_without_an_answer_is_drawn_alone(make_queue, store):
    queue, engine = make_queue(lease=0.6, max_attempts=9), FakeEngine(seconds=0.01)
    await queue.submit(job("suspect", id="suspect"))
    for _ in range(2):  # two workers die of it
        [lease] = await queue.claim(CARD, 1)
        await queue.start(lease)
        await asyncio.sleep(0.7)
        await queue.sweep()
    jobs = [job(f"p{n}") for n in range(6)]
    for wish in jobs:
        await queue.submit(wish)
    async with working(queue, store, engine):
        for number in ("suspect", *(wish.id for wish in jobs)):
            assert (await queue.wait(number, 20.0)).state is State.DONE
    assert ["suspect"] in engine.batches
    assert not any("suspect" in batch and len(batch) > 1 for batch in engine.batches)


async def test_liveness_tells_of_a_stalled_engine(make_queue, store):
    queue, engine = make_queue(), FakeEngine()
    engine.gate.clear()
    await queue.submit(job())
    async with working(queue, store, engine, stall=0.2) as worker:
        while not engine.batches:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.4)
        assert not worker.live
        engine.gate.set()
