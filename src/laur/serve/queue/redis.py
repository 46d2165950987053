"""The queue over Redis Streams: survives the death of any worker, of any API process, and a restart of Redis.

Jobs are entries of one stream and leases its consumer group's pending entries. Which entry a worker gets is decided
by sorted sets (shares, priorities, affinity), so entries are taken by XCLAIM FORCE where other programs would take the
next by XREADGROUP. Every change is one Lua script and atomic; see `lua/common.lua` for the keys.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from laur.core.errors import BusyError, NotFoundError
from laur.serve.events import Ended, JobEvent, Preview, Progress, name_of, to_dict
from laur.serve.job import Failure, Job, Record, Result, State
from laur.serve.observe.objective import WINDOW
from laur.serve.queue import watching
from laur.serve.queue.fair import LOOK_JOBS, LOOK_TENANTS
from laur.serve.queue.link import Link, pairs
from laur.serve.queue.protocol import Lease, QueueOptions, Stats, WorkerCard
from laur.serve.queue.tail import Tail

EVENTS = 8192
"""Entries of the stream of events that are kept, about."""
LOOK_AGAIN = 2.0
"""Seconds without news after which a watcher reads the record itself."""


class RedisQueue:
    """See `Queue`."""

    def __init__(self, url: str, options: QueueOptions | None = None) -> None:
        """Connects on first use. Raises MissingDependencyError, NotFoundError for a wrong URL."""
        self.options = options or QueueOptions()
        self.prefix = f"{{{self.options.namespace}}}:"
        self.link = Link(url, outage=self.options.outage)
        self._tail = Tail(self.link, f"{self.prefix}events")
        self._bell = "0-0"
        self._settings = json.dumps(_settings(self.options))

    # ---------------------------------------------------------------- clients

    async def submit(self, job: Job) -> Record:
        """See `Queue`."""
        answer, interval = await self._run("submit", json.dumps(_wish(job)))
        if answer == "busy":
            seconds = watching.retry_after(float(interval), self.options.limit)
            raise BusyError(f"the queue is full; try again in {seconds} s", seconds)
        return Record(job=job) if answer == "new" else await self.get(job.id)

    async def remember(self, job: Job, result: Result) -> Record:
        """See `Queue`."""
        await self._run("submit", json.dumps(_wish(job)), json.dumps(result.to_dict()))
        return await self.get(job.id)

    async def get(self, id: str) -> Record:
        """See `Queue`."""
        return (await self._record(id))[0]

    async def cancel(self, id: str) -> Record:
        """See `Queue`."""
        await self._run("cancel", id)
        return await self.get(id)

    async def watch(self, id: str) -> AsyncGenerator[JobEvent]:
        """See `Queue`."""
        async with self._tail.watching(id) as (mailbox, told):
            record, newest = await self._record(id)
            told.append(newest)
            for event in watching.snapshot(record):
                yield event
                if isinstance(event, Ended):
                    return
            while True:
                event = await mailbox.get(LOOK_AGAIN) or await self._ended(id)
                if event is not None:
                    yield event
                if isinstance(event, Ended):
                    return

    async def wait(self, id: str, timeout: float | None = None) -> Record:
        """See `Queue`."""
        return await watching.wait(self, id, timeout)

    async def stats(self) -> Stats:
        """See `Queue`."""
        waiting, running, oldest, parked, pools, counters, good, bad, workers = await self._run("stats")
        return Stats(
            waiting=waiting,
            running=running,
            oldest=float(oldest),
            parked=parked,
            by_pool=pairs(pools),
            counters={name: int(value) for name, value in pairs(counters).items()},
            good=good,
            bad=bad,
            workers=workers,
        )

    async def parked(self, count: int = 100) -> list[Record]:
        """See `Queue`."""
        found: Any = await self.link.call(lambda: self.link.client.zrevrange(f"{self.prefix}parked", 0, count - 1))
        records: list[Record] = []
        for number in found:
            try:
                records.append(await self.get(number))
            except NotFoundError:
                continue  # expired between the two
        return records

    async def revive(self, id: str) -> Record:
        """See `Queue`."""
        if not await self._run("revive", id):
            raise NotFoundError(f"job {id[:64]} is not parked")
        return await self.get(id)

    # ---------------------------------------------------------------- workers

    async def claim(self, card: WorkerCard, count: int, *, block: float = 0.0) -> list[Lease]:
        """See `Queue`."""
        until = time.monotonic() + block
        while True:
            leases = await self._claim(card, count)
            left = until - time.monotonic()
            if leases or left <= 0:
                return leases
            await self._listen(min(left, 0.5))

    async def peek(self, card: WorkerCard, count: int) -> list[Job]:
        """See `Queue`."""
        found = await self._run("claim", json.dumps({**_told(card), "count": count, "peek": True}))
        return [Job.from_dict(json.loads(payload)) for payload in found]

    async def start(self, lease: Lease) -> bool:
        """See `Queue`."""
        return bool(await self._run("start", lease.job.id, lease.token, lease.worker))

    async def publish(self, updates: Sequence[tuple[Lease, JobEvent]]) -> list[Lease]:
        """See `Queue`."""
        arguments: list[str | int] = []
        for lease, event in updates:
            step, steps = (event.step, event.steps) if isinstance(event, Progress | Preview) else (0, 0)
            arguments += [lease.job.id, lease.token, name_of(event), _body(event), step, steps]
        lost = await self._run("publish", *arguments) if updates else []
        return [updates[int(index)][0] for index in lost]

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """See `Queue`."""
        arguments = [text for lease in leases for text in (lease.job.id, lease.token, lease.worker)]
        lost = await self._run("renew", *arguments) if leases else []
        return [leases[int(index)] for index in lost]

    async def finish(self, lease: Lease, result: Result) -> bool:
        """See `Queue`."""
        return bool(await self._run("finish", lease.job.id, lease.token, json.dumps(result.to_dict())))

    async def fail(self, lease: Lease, failure: Failure) -> None:
        """See `Queue`."""
        await self._run("fail", lease.job.id, lease.token, json.dumps(failure.to_dict()))

    async def release(self, lease: Lease) -> None:
        """See `Queue`."""
        await self._run("release", lease.job.id, lease.token)

    async def sweep(self) -> None:
        """See `Queue`."""
        await self._run("sweep")

    async def ping(self) -> bool:
        """See `Queue`."""
        return await self.trouble() is None

    async def trouble(self) -> str | None:
        """See `Queue`."""
        return await self.link.trouble(self.prefix)

    async def close(self) -> None:
        """See `Queue`."""
        await self._tail.close()
        await self.link.close()

    # ------------------------------------------------------------------ inside

    async def _run(self, script: str, *arguments: str | int) -> Any:
        return await self.link.script(script, self.prefix, self._settings, *arguments)

    async def _claim(self, card: WorkerCard, count: int) -> list[Lease]:
        nonce = secrets.token_hex(8)  # so that the answer to a lost claim can be asked for again
        taken = await self._run("claim", json.dumps({**_told(card), "count": count, "nonce": nonce}))
        return [
            Lease(job=Job.from_dict(json.loads(payload)), worker=card.name, token=token, attempts=int(attempts))
            for payload, token, attempts in taken
        ]

    async def _listen(self, seconds: float) -> None:
        """Until the bell rings, or not longer than that."""
        milliseconds = max(1, int(1000 * seconds))
        bell = f"{self.prefix}bell"
        found: Any = await self.link.call(lambda: self.link.client.xread({bell: self._bell}, block=milliseconds))
        for _, entries in found or ():
            self._bell = entries[-1][0]

    async def _record(self, number: str) -> tuple[Record, str]:
        """A job's record and the id of the last event that it includes."""
        found: Any = await self.link.call(lambda: self.link.client.hgetall(f"{self.prefix}job:{number}"))
        if "payload" not in found:
            raise NotFoundError(f"no job {number[:64]!r}; it never was, or has expired")
        return _record(found), found.get("told", "0-0")

    async def _ended(self, number: str) -> JobEvent | None:
        """The end of a job, where its event was missed."""
        record = await self.get(number)
        return watching.snapshot(record)[0] if record.state.final else None


def _told(card: WorkerCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "serves": None if card.serves is None else sorted(card.serves),
        "size_class": card.size_class,
        "holds": sorted(card.holds),
        "adapters": sorted(card.adapters),
        "without": sorted(card.without),
    }


def _wish(job: Job) -> dict[str, Any]:
    """What the script needs to know of a job, and the whole of it as text."""
    return {
        "id": job.id,
        "payload": json.dumps(job.to_dict()),
        "pool": job.pool,
        "tenant": job.tenant,
        "priority": job.priority,
        "work": job.work,
        "adapters": " ".join(job.adapters),
        "deadline": job.deadline,
    }


def _settings(options: QueueOptions) -> dict[str, Any]:
    names = ("limit", "hard_limit", "reserved", "per_tenant", "lease", "max_attempts", "retry_delay", "keep")
    own = {name: getattr(options, name) for name in (*names, "patience", "slack")}
    return {
        **own,
        "window": WINDOW,
        "weights": dict(options.weights),
        "events": EVENTS,
        "look_tenants": LOOK_TENANTS,
        "look_jobs": LOOK_JOBS,
    }


def _body(event: JobEvent) -> str:
    values = to_dict(event)
    return json.dumps({name: value for name, value in values.items() if name not in {"event", "job", "at"}})


def _record(found: dict[str, str]) -> Record:
    result, failure = found.get("result"), found.get("failure")
    return Record(
        job=Job.from_dict(json.loads(found["payload"])),
        state=State(found["state"]),
        attempts=int(found["attempts"]),
        worker=found.get("worker"),
        step=int(found.get("step", 0)),
        steps=int(found.get("steps", 0)),
        started=float(found["started"]) if "started" in found else None,
        finished=float(found["finished"]) if "finished" in found else None,
        result=Result.from_dict(json.loads(result)) if result else None,
        failure=Failure.from_dict(json.loads(failure)) if failure else None,
    )
