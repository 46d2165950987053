"""The queue over Redis, while Redis is stopped, killed or cut off."""

import asyncio
import signal

import pytest
from kit import CARD, card, job, result

from helpers.redis_server import Proxy
from laur.core.errors import NotFoundError, UnavailableError
from laur.serve.events import Ended, Progress
from laur.serve.job import State
from laur.serve.queue import QueueOptions, open_queue

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_loses_nothing(own_redis, how):
    """Jobs that wait, a job that is drawn and its watcher all live through it; the worker notices nothing."""
    queue = open_queue(own_redis.url, QueueOptions(lease=5.0))
    for name in ("drawn", "waits"):
        await queue.submit(job(name, id=name))
    [lease] = await queue.claim(CARD, 1)
    assert await queue.start(lease)

    async def look():
        return [event async for event in queue.watch("drawn")]

    watcher = asyncio.create_task(look())
    await asyncio.sleep(0.1)
    own_redis.stop(how)
    told = asyncio.create_task(queue.publish([(lease, Progress(job="drawn", step=1, steps=4))]))
    late = asyncio.create_task(queue.submit(job("late", id="late")))
    await asyncio.sleep(0.3)
    assert not await queue.ping()
    own_redis.start()
    assert await told == []
    assert (await late).state is State.QUEUED
    assert await queue.renew([lease]) == []
    assert await queue.finish(lease, result())
    assert isinstance((await watcher)[-1], Ended)
    assert [lease.job.id for lease in await queue.claim(CARD, 5)] == ["waits", "late"]
    assert queue.link.breaks > 0
    await queue.close()


async def test_a_cut_wire_is_mended_before_the_lease_ends(own_redis):
    proxy = Proxy(own_redis.port)
    near, far = open_queue(own_redis.url), open_queue(proxy.url)
    await near.submit(job(id="a"))
    [lease] = await far.claim(CARD, 1)
    await far.start(lease)
    proxy.cut()
    done = asyncio.create_task(far.finish(lease, result()))
    await asyncio.sleep(0.2)
    assert (await near.get("a")).state is State.RUNNING
    proxy.mend()
    assert await done
    assert (await near.wait("a", 10.0)).result == result()
    for queue in (near, far):
        await queue.close()
    proxy.close()


async def test_a_worker_cut_off_loses_its_job_but_may_still_bring_it(own_redis):
    proxy = Proxy(own_redis.port)
    near, far = (open_queue(url, QueueOptions(lease=0.3)) for url in (own_redis.url, proxy.url))
    await near.submit(job(id="a"))
    [lease] = await far.claim(card("far"), 1)
    await far.start(lease)
    proxy.cut()
    await asyncio.sleep(0.5)
    await near.sweep()
    [other] = await near.claim(card("near"), 1)
    await near.start(other)
    proxy.mend()
    assert await far.renew([lease]) == [lease]
    assert await far.finish(lease, result("far"))
    assert not await near.finish(other, result("near"))
    record = await near.get("a")
    assert (record.attempts, record.result) == (2, result("far"))
    for queue in (near, far):
        await queue.close()
    proxy.close()


async def test_who_waits_too_long_is_told_so(own_redis):
    queue = open_queue(own_redis.url, QueueOptions(outage=0.2))
    own_redis.stop()
    with pytest.raises(UnavailableError) as refused:
        await queue.submit(job())
    assert refused.value.http_status == 503
    assert "\n" not in str(refused.value)
    await queue.close()


async def test_urls_of_no_known_form_are_refused_without_their_password():
    with pytest.raises(NotFoundError) as refused:
        open_queue("http://user:secret@example.com")
    assert "secret" not in str(refused.value)
