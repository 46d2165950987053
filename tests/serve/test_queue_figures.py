"""What a queue tells about itself, and what it lets workers see beforehand."""

import time

import pytest
from kit import CARD, card, job, result

from laur.serve.job import Failure
from laur.serve.observe.objective import WINDOW, Objective

pytestmark = pytest.mark.anyio


async def draw(queue, end):
    [lease] = await queue.claim(CARD, 1)
    await queue.start(lease)
    await end(lease)


async def test_good_and_bad_ends_are_told_apart(make_queue):
    """A wish that cannot be fulfilled and one that is taken back are nobody's fault."""
    queue = make_queue()
    refused, broken = (Failure(kind="x", message="x", status=status) for status in (422, 500))
    ends = [lambda lease: queue.finish(lease, result())] * 3
    ends += [lambda lease: queue.fail(lease, refused), lambda lease: queue.fail(lease, broken)]
    ends += [lambda lease: queue.cancel(lease.job.id)]
    for end in ends:
        await queue.submit(job())
        await draw(queue, end)
    await queue.submit(job(deadline=time.time() - 1))
    await queue.sweep()
    await queue.remember(job(), result())
    stats = await queue.stats()
    assert (stats.good, stats.bad) == (4, 2)
    assert stats.counters["done"] == 4
    assert stats.counters["faults"] == 2
    assert (stats.counters["failed"], stats.counters["cancelled"]) == (3, 1)


async def test_workers_are_counted_while_they_ask_or_renew(make_queue):
    queue = make_queue(lease=0.4)
    assert (await queue.stats()).workers == 0
    await queue.claim(card("a"), 1)
    await queue.claim(card("b"), 1)
    assert (await queue.stats()).workers == 2
    await queue.submit(job())
    [lease] = await queue.claim(card("a"), 1)
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        await queue.renew([lease])
    assert (await queue.stats()).workers == 1


async def test_a_look_ahead_takes_nothing(make_queue):
    queue = make_queue()
    jobs = [job(f"p{n}", tenant=tenant) for tenant in ("a", "b") for n in range(3)]
    jobs.append(job("elsewhere", recipe={"checkpoint": "another"}))
    for wish in jobs:
        await queue.submit(wish)
    own = card(serves=frozenset({"own"}))
    seen = await queue.peek(own, 4)
    assert len(seen) == 4
    assert {wish.id for wish in seen} <= {wish.id for wish in jobs[:-1]}
    assert seen[0].id == (await queue.claim(own, 1))[0].job.id
    stats = await queue.stats()
    assert (stats.waiting, stats.running) == (6, 1)
    assert len(await queue.peek(own, 99)) == 5


def test_an_error_budget_is_used_up_by_failures():
    objective = Objective(share=0.99)
    assert objective.budget_left(0, 0) == objective.budget_left(1000, 0) == 1.0
    assert objective.budget_left(995, 5) == pytest.approx(0.5)
    assert objective.budget_left(990, 10) == pytest.approx(0.0)
    assert objective.budget_left(900, 100) == pytest.approx(-9.0)
    assert Objective(share=1.0).budget_left(999, 1) == 0.0
    assert (objective.success(0, 0), objective.success(3, 1)) == (1.0, 0.75)


async def test_old_ends_count_no_more(make_queue, monkeypatch):
    queue = make_queue()
    await queue.submit(job())
    await draw(queue, lambda lease: queue.finish(lease, result()))
    assert (await queue.stats()).good == 1
    monkeypatch.setattr("laur.serve.queue.redis.WINDOW", -7200.0)
    monkeypatch.setattr("laur.serve.queue.watching.WINDOW", -7200.0)
    assert WINDOW > 0
    assert (await make_same(queue, make_queue).stats()).good == 0


def make_same(queue, make_queue):
    """The same jobs through a queue that was opened anew, where they outlive it."""
    return queue if type(queue).__name__ == "MemoryQueue" else make_queue()
