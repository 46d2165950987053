"""Which job a worker gets next, from every queue: priorities, tenants' shares, and what the worker holds."""

import asyncio

import pytest
from kit import card, job, pool_of, result, short_hash, take

from laur.core.errors import BusyError

pytestmark = pytest.mark.anyio


async def test_priorities_order_a_tenants_jobs(make_queue):
    queue = make_queue()
    for name, priority in (("b1", 4), ("c", 9), ("b2", 4), ("a", 0)):
        await queue.submit(job(name, priority=priority))
    assert await take(queue, 5) == ["a", "b1", "b2", "c"]


async def test_tenants_share_by_work(make_queue):
    """A flood waits behind its own jobs; large pictures count for more; a weight of 2 is twice the share."""
    queue = make_queue(weights={"gold": 2.0})
    for number in range(8):
        await queue.submit(job(f"flood{number}", tenant="flood", priority=0))
    for number in range(2):
        await queue.submit(job(f"small{number}", tenant="small", priority=9))
    assert await take(queue, 4) == ["flood0", "small0", "flood1", "small1"]
    assert len(await take(queue, 10)) == 6
    for _ in range(6):
        await queue.submit(job("big", tenant="a", recipe={"width": 1024, "height": 512}))
        await queue.submit(job("one", tenant="b", recipe={"width": 512, "height": 512}))
        await queue.submit(job("gold", tenant="gold", recipe={"width": 512, "height": 512}))
    taken = await take(queue, 7)
    assert {name: taken.count(name) for name in set(taken)} == {"big": 1, "one": 2, "gold": 4}


async def test_in_a_queue_that_fills_each_tenant_has_its_share_of_room(make_queue):
    """However their jobs come, nobody's last one waits much longer than the queue is long."""
    queue = make_queue(limit=24)
    for name in ("ann", "bob"):
        for _ in range(6):
            await queue.submit(job(name, tenant=name))
    let_in = {"ann": 6, "bob": 6, "cleo": 0}
    await take(queue, 4)  # what is drawn takes room too
    for name in ("ann", "ann", "bob", "bob", "bob", "cleo", "ann", "cleo", "cleo", "ann", *["cleo"] * 9):
        try:
            await queue.submit(job(name, tenant=name))
            let_in[name] += 1
        except BusyError:
            pass
    assert let_in == {"ann": 8, "bob": 9, "cleo": 7}  # bob's ninth came before cleo did
    taken = await take(queue, 17)
    assert sorted(taken.count(name) for name in let_in) == [5, 6, 6]


async def test_who_stays_away_saves_nothing_up(make_queue):
    queue = make_queue()
    await queue.submit(job("first", tenant="idle"))
    await take(queue)
    for _number in range(20):
        await queue.submit(job("busy", tenant="busy"))
    await take(queue, 10)
    for _number in range(10):
        await queue.submit(job("idle", tenant="idle"))
    taken = await take(queue, 10)
    assert 4 <= taken.count("idle") <= 6


async def test_workers_take_what_they_can_hold(make_queue):
    queue = make_queue()
    await queue.submit(job("xl", recipe={"checkpoint": "xl", "width": 1024, "height": 1024}))
    await queue.submit(job("mini", recipe={"checkpoint": "mini", "width": 256, "height": 256}))
    await queue.submit(job("own", recipe={"width": 256, "height": 256}))
    assert await take(queue, 3, serves=frozenset({pool_of("mini")})) == ["mini"]
    assert await take(queue, 3, size_class=0) == ["own"]
    assert await take(queue, 3) == ["xl"]


async def test_jobs_of_some_tenants_can_be_left(make_queue):
    """A worker with its hands full of one tenant's jobs takes those of others, however many of the first wait."""
    queue = make_queue()
    flood = [f"flood{number}" for number in range(6)]
    for tenant in flood:
        await queue.submit(job(tenant, tenant=tenant))
    assert await take(queue, 1, without=frozenset({*flood, "other"})) == []
    await queue.submit(job("lone", tenant="lone"))
    assert await take(queue, 2, without=frozenset(flood)) == ["lone"]
    assert await take(queue, 1, without=frozenset(flood[:5])) == ["flood5"]
    assert len(await take(queue, 9)) == 5


async def test_workers_prefer_what_they_hold_but_starve_nobody(make_queue):
    queue = make_queue(patience=0.3)
    await queue.submit(job("cold", tenant="a", recipe={"checkpoint": "other"}))
    for _number in range(12):
        await queue.submit(job("warm", tenant="a", recipe={"checkpoint": "mine"}))
    holds = frozenset({pool_of("mine")})
    assert await take(queue, 3, holds=holds) == ["warm"] * 3
    await asyncio.sleep(0.4)
    assert await take(queue, 2, holds=holds) == ["cold", "warm"]


async def test_workers_prefer_resident_adapters_within_slack(make_queue):
    queue = make_queue(slack=2.5, patience=60.0)
    for tenant in ("a", "b"):
        for _number in range(6):
            await queue.submit(job(tenant, tenant=tenant, recipe={"adapters": [tenant]}))
    taken = await take(queue, 6, adapters=frozenset({short_hash("b")}))
    assert taken.count("b") == 4  # 3 ahead of its share at most, and back it comes
    assert taken[:3] == ["b", "b", "b"]


async def test_many_workers_share_jobs_without_overlap(make_queue):
    queue = make_queue()
    for number in range(60):
        await queue.submit(job(str(number), tenant=f"t{number % 7}"))

    async def work(name: str) -> list[str]:
        mine: list[str] = []
        while leases := await queue.claim(card(name), 3):
            for lease in leases:
                await queue.start(lease)
                await queue.finish(lease, result())
            mine += [lease.job.recipe.prompt for lease in leases]
        return mine

    taken = await asyncio.gather(*(work(f"w{n}") for n in range(4)))
    assert sorted(int(prompt) for part in taken for prompt in part) == list(range(60))
