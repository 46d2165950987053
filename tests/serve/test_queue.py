"""What every queue does: the same tests against the queue in this process and the one over Redis."""

import asyncio
import time

import pytest
from kit import CARD, card, job, result, short_hash, take

from laur.core.errors import BusyError, NotFoundError, RecipeError
from laur.serve.events import Ended, Preview, Progress, Queued, Started
from laur.serve.job import Failure, Job, State
from laur.serve.queue import open_queue

pytestmark = pytest.mark.anyio


async def test_a_job_goes_through_its_states(make_queue):
    queue = make_queue()
    wish = job(previews=True, tenant="ann", recipe={"seed": 3, "adapters": ["ink:0.5"]})
    assert (await queue.submit(wish)).state is State.QUEUED
    [lease] = await queue.claim(CARD, 5)
    assert lease.job == wish
    assert (await queue.get(wish.id)).state is State.QUEUED  # taken, not begun
    assert await queue.start(lease)
    assert await queue.publish([(lease, Progress(job=wish.id, step=1, steps=4))]) == []
    record = await queue.get(wish.id)
    assert (record.state, record.attempts, record.worker, record.step, record.steps) == (State.RUNNING, 1, "w1", 1, 4)
    assert await queue.finish(lease, result())
    record = await queue.get(wish.id)
    assert (record.state, record.result, record.job) == (State.DONE, result(), wish)
    assert await queue.claim(CARD, 5) == []


async def test_the_same_id_is_one_job(make_queue):
    queue = make_queue()
    first = await queue.submit(job("one", id="mine"))
    again = await queue.submit(job("two", id="mine"))
    assert again.job.recipe.prompt == first.job.recipe.prompt == "one"
    assert await take(queue, 3) == ["one"]


async def test_unknown_jobs_are_not_found(make_queue):
    queue = make_queue()
    for ask in (queue.get, queue.cancel, queue.revive, queue.wait):
        with pytest.raises(NotFoundError):
            await ask("../../etc/passwd")
    with pytest.raises(NotFoundError):
        await anext(queue.watch("nothing"))


async def test_first_result_counts_and_only_once(make_queue):
    queue = make_queue(lease=0.2)
    await queue.submit(job(id="a"))
    [slow] = await queue.claim(card("slow"), 1)
    await queue.start(slow)
    await asyncio.sleep(0.3)
    await queue.sweep()
    [quick] = await queue.claim(card("quick"), 1)
    await queue.start(quick)
    assert await queue.finish(quick, result("quick"))
    assert await queue.finish(quick, result("quick"))  # asked again after a broken connection
    assert not await queue.finish(slow, result("slow"))
    assert (await queue.get("a")).result == result("quick")
    assert (await queue.stats()).counters["done"] == 1


async def test_a_late_worker_may_still_bring_the_result(make_queue):
    """Its lease went to another, who then learns that there is nothing left to do."""
    queue = make_queue(lease=0.2)
    await queue.submit(job(id="a"))
    [slow] = await queue.claim(card("slow"), 1)
    await asyncio.sleep(0.3)
    await queue.sweep()
    [other] = await queue.claim(card("other"), 1)
    await queue.start(other)
    assert await queue.finish(slow, result())
    assert await queue.publish([(other, Progress(job="a", step=1, steps=4))]) == [other]
    assert await queue.renew([other]) == [other]
    assert not await queue.finish(other, result("other"))


async def test_renewed_leases_stay_and_others_go_back(make_queue):
    queue = make_queue(lease=0.4)
    for name in ("kept", "dead"):
        await queue.submit(job(name, id=name))
    leases = {lease.job.id: lease for lease in await queue.claim(CARD, 2)}
    for lease in leases.values():
        await queue.start(lease)
    for _ in range(6):
        await asyncio.sleep(0.1)
        assert await queue.renew([leases["kept"]]) == []
        await queue.sweep()
    assert await take(queue, 2, name="w2") == ["dead"]
    assert (await queue.get("dead")).attempts == 1
    assert await queue.renew([leases["dead"]]) == [leases["dead"]]
    assert not await queue.start(leases["dead"])
    assert (await queue.stats()).counters["leases_lost"] == 1


async def test_a_lease_that_ran_out_is_regained_while_nobody_has_the_job(make_queue):
    queue = make_queue(lease=0.2)
    await queue.submit(job(id="a"))
    [lease] = await queue.claim(CARD, 1)
    await queue.start(lease)
    await asyncio.sleep(0.3)
    await queue.sweep()
    assert (await queue.get("a")).state is State.QUEUED
    assert await queue.renew([lease]) == []
    record = await queue.get("a")
    assert (record.state, record.attempts) == (State.RUNNING, 1)
    assert await take(queue) == []


async def test_release_hands_back_without_counting(make_queue):
    queue = make_queue()
    await queue.submit(job(id="a"))
    [lease] = await queue.claim(CARD, 1)
    await queue.start(lease)
    await queue.release(lease)
    record = await queue.get("a")
    assert (record.state, record.attempts) == (State.QUEUED, 0)
    assert await take(queue, name="w2") == ["a fox"]


async def test_a_job_that_kills_its_workers_is_parked_with_its_reason(make_queue):
    queue = make_queue(lease=0.1, max_attempts=2)
    await queue.submit(job(id="bad"))
    for _ in range(2):
        [lease] = await queue.claim(CARD, 1)
        await queue.start(lease)
        await asyncio.sleep(0.15)
        await queue.sweep()
    assert await queue.claim(CARD, 1) == []
    [record] = await queue.parked()
    assert (record.job.id, record.state, record.failure.kind) == ("bad", State.FAILED, "poison")
    assert record.failure.message == "given up after 2 attempts: each time its worker stopped without an answer"
    await queue.revive("bad")
    assert await queue.parked() == []
    record = await queue.get("bad")
    assert (record.state, record.attempts, record.failure) == (State.QUEUED, 0, None)
    [lease] = await queue.claim(CARD, 1)
    assert await queue.finish(lease, result())


async def test_who_is_revived_too_late_has_no_deadline_any_more(make_queue):
    queue = make_queue(max_attempts=1)
    until = {"late": time.time() + 0.5, "early": time.time() + 3600.0}
    for name, deadline in until.items():
        await queue.submit(job(id=name, deadline=deadline))
    for lease in await queue.claim(CARD, 2):
        await queue.start(lease)
        await queue.fail(lease, Failure(kind="OutputError", message="the disk is full", retry=True))
    assert {record.job.id for record in await queue.parked()} == set(until)
    await asyncio.sleep(0.6)
    for name in until:
        await queue.revive(name)
    await queue.sweep()
    leases = await queue.claim(CARD, 2)
    assert {lease.job.id for lease in leases} == set(until)
    assert all([await queue.finish(lease, result()) for lease in leases])


async def test_failures_are_tried_again_later_or_not_at_all(make_queue):
    queue = make_queue(max_attempts=2, retry_delay=0.2)
    await queue.submit(job(id="wish"))
    await queue.submit(job(id="disk"))
    leases = {lease.job.id: lease for lease in await queue.claim(CARD, 2)}
    for lease in leases.values():
        await queue.start(lease)
    refused = Failure(kind="RecipeError", message="steps is 0", status=422)
    full = Failure(kind="OutputError", message="the disk is full", status=507, retry=True)
    await queue.fail(leases["wish"], refused)
    await queue.fail(leases["disk"], full)
    assert (await queue.get("wish")).failure == refused
    assert (await queue.get("wish")).state is State.FAILED
    assert (await queue.get("disk")).state is State.QUEUED
    assert await queue.claim(CARD, 2) == []  # not yet
    [lease] = await queue.claim(CARD, 2, block=5.0)
    await queue.start(lease)
    await queue.fail(lease, full)
    record = await queue.get("disk")
    assert (record.state, record.failure.kind) == (State.FAILED, "poison")
    assert record.failure.message == "given up after 2 attempts: the disk is full"


async def test_cancel_while_waiting_and_while_drawn(make_queue):
    queue = make_queue()
    for name in ("waits", "runs"):
        await queue.submit(job(name, id=name))
    assert (await queue.cancel("waits")).state is State.CANCELLED
    [lease] = await queue.claim(CARD, 2)
    await queue.start(lease)
    assert (await queue.cancel("runs")).state is State.CANCELLED
    assert await queue.publish([(lease, Progress(job="runs", step=1, steps=4))]) == [lease]
    assert not await queue.finish(lease, result())
    assert (await queue.cancel("runs")).result is None
    stats = await queue.stats()
    assert (stats.waiting, stats.running, stats.counters["cancelled"]) == (0, 0, 2)


async def test_deadlines_end_jobs_wherever_they_are(make_queue):
    queue = make_queue()
    soon = time.time() + 0.3
    for name in ("drawn", "late", "waits"):
        await queue.submit(job(name, id=name, deadline=soon))
    drawn, late = await queue.claim(CARD, 2)
    for lease in (drawn, late):
        assert await queue.start(lease)
    await asyncio.sleep(0.4)
    assert await queue.publish([(drawn, Progress(job="drawn", step=1, steps=4))]) == [drawn]
    assert not await queue.finish(late, result())
    await queue.sweep()
    for name in ("drawn", "late", "waits"):
        record = await queue.get(name)
        assert (record.state, record.failure.kind, record.failure.status) == (State.FAILED, "deadline", 504)
    assert (await queue.stats()).counters["deadlines"] == 3


async def test_a_full_queue_says_when_to_come_back(make_queue):
    queue = make_queue(limit=4, tenant_limit=3)
    for number in range(3):
        await queue.submit(job(str(number), tenant="ann"))
    with pytest.raises(BusyError) as refused:
        await queue.submit(job(tenant="ann"))
    assert 1 <= refused.value.retry_after <= 60
    assert refused.value.http_status == 429
    await queue.submit(job(tenant="bob"))
    await queue.submit(job(tenant="cleo"))  # who has nothing waiting gets in a quarter above
    with pytest.raises(BusyError):
        await queue.submit(job(tenant="dan"))
    [lease] = await queue.claim(CARD, 1)
    with pytest.raises(BusyError):
        await queue.submit(job(tenant="dan"))  # what runs takes room too
    await queue.finish(lease, result())
    await queue.submit(job(tenant="dan"))
    assert (await queue.stats()).counters["refused"] == 3


async def test_a_claim_waits_for_the_first_job(make_queue):
    queue = make_queue()
    claim = asyncio.create_task(queue.claim(CARD, 4, block=10.0))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await queue.submit(job(id="a"))
    assert [lease.job.id for lease in await claim] == ["a"]
    assert time.monotonic() - began < 5.0
    assert await queue.claim(CARD, 1, block=0.05) == []


async def test_watchers_see_everything_to_the_end(make_queue):
    queue = make_queue()
    await queue.submit(job(id="a"))

    async def look():
        return [event async for event in queue.watch("a")]

    watchers = [asyncio.create_task(look()) for _ in range(3)]
    await asyncio.sleep(0.2)
    [lease] = await queue.claim(CARD, 1)
    await queue.start(lease)
    await queue.publish(
        [
            (lease, Progress(job="a", step=1, steps=2)),
            (lease, Preview(job="a", step=1, steps=2, media_type="image/png", data=b"\x89P")),
        ]
    )
    late = asyncio.create_task(look())
    await asyncio.sleep(0.1)
    await queue.publish([(lease, Progress(job="a", step=2, steps=2))])
    await queue.finish(lease, result())
    for watcher in watchers:
        events = await watcher
        assert [type(event) for event in events] == [Queued, Started, Progress, Preview, Progress, Ended]
        assert events[3].data == b"\x89P"
        assert events[-1].result == result()
        assert all(event.at > 0 for event in events)
    assert [type(event) for event in await late] == [Started, Progress, Progress, Ended]
    assert [type(event) for event in await look()] == [Ended]
    assert (await queue.wait("a", 5.0)).state is State.DONE


async def test_waiting_has_an_end(make_queue):
    queue = make_queue()
    await queue.submit(job(id="a"))
    assert (await queue.wait("a", 0.1)).state is State.QUEUED


async def test_finished_jobs_are_forgotten(make_queue):
    queue = make_queue(keep=0.3)
    await queue.submit(job(id="a"))
    await queue.submit(job(id="b"))
    await queue.cancel("a")
    await asyncio.sleep(0.5)
    await queue.sweep()
    with pytest.raises(NotFoundError):
        await queue.get("a")
    assert (await queue.get("b")).state is State.QUEUED


async def test_one_process_remembers_so_many_and_no_more(monkeypatch):
    monkeypatch.setattr("laur.serve.queue.memory.REMEMBERED", 3)
    queue = open_queue()
    await queue.submit(job(id="open"))
    for number in range(6):
        await queue.submit(job(id=f"j{number}"))
        await queue.cancel(f"j{number}")
    for number in range(3):
        with pytest.raises(NotFoundError):
            await queue.get(f"j{number}")
    assert [(await queue.get(f"j{number}")).state for number in range(3, 6)] == [State.CANCELLED] * 3
    assert (await queue.get("open")).state is State.QUEUED
    assert (await queue.stats()).counters["cancelled"] == 6


async def test_stats_tell_depth_age_and_counters(make_queue):
    queue = make_queue()
    for _ in range(3):
        await queue.submit(job(recipe={"checkpoint": "mini"}))
    [lease] = await queue.claim(CARD, 1)
    await asyncio.sleep(0.05)
    stats = await queue.stats()
    assert (stats.waiting, stats.running, stats.parked) == (2, 1, 0)
    assert 0.04 < stats.oldest < 60
    assert dict(stats.by_pool) == {lease.job.pool: 2}
    assert stats.counters["submitted"] == 3
    assert await queue.ping()


def test_jobs_refuse_names_that_could_mean_something_else():
    for fields in ({"id": "../x"}, {"id": ""}, {"tenant": "a:b"}, {"tenant": "x" * 65}, {"format": "../p"}):
        with pytest.raises(RecipeError):
            job(**fields)
    with pytest.raises(RecipeError):
        job(priority=10)


def test_jobs_survive_json():
    wish = job(priority=2, deadline=4.5, recipe={"adapters": ["ink:0.5"], "style": "ink"})
    assert Job.from_dict(wish.to_dict()) == wish
    assert wish.adapters == (short_hash("ink"),)


async def test_what_was_there_before_is_done_at_once(make_queue):
    queue = make_queue(limit=1)
    await queue.submit(job(id="waits"))
    record = await queue.remember(job(id="a"), result("before"))  # a full queue does not matter
    assert (record.state, record.result, record.attempts) == (State.DONE, result("before"), 0)
    assert (await queue.remember(job(id="a"), result("again"))).result == result("before")
    assert [type(event) for event in [event async for event in queue.watch("a")]] == [Ended]
    stats = await queue.stats()
    assert (stats.waiting, stats.counters["done"]) == (1, 1)
    assert await take(queue, 2) == ["a fox"]
