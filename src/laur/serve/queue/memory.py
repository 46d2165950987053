"""The queue inside one process: no Redis, the same behaviour. Its jobs end with the process."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from laur.core.errors import BusyError, NotFoundError
from laur.serve.events import Ended, JobEvent, Progress, Queued, Started
from laur.serve.job import Failure, Job, Record, Result, State
from laur.serve.queue import watching
from laur.serve.queue.fair import Backlog, Waiting
from laur.serve.queue.protocol import Lease, QueueOptions, Stats, WorkerCard
from laur.serve.queue.watching import Mailbox

REMEMBERED = 20_000
"""Final jobs whose records are kept at most, whatever `keep` says: some hundred MB."""


@dataclass(slots=True)
class _Slot:
    """A job's place: its record, and who holds it."""

    record: Record
    waiting: Waiting
    token: str | None = None
    former: str | None = None
    """The token that was lost last."""
    expires: float = 0.0
    due: float | None = None
    """When a delayed attempt may begin."""
    parked: float | None = None

    def change(self, **changes: object) -> None:
        self.record = dataclasses.replace(self.record, **changes)  # pyright: ignore[reportArgumentType]


class MemoryQueue:
    """See `Queue`. Belongs to one event loop."""

    def __init__(self, options: QueueOptions | None = None) -> None:
        self.options = options or QueueOptions()
        self._slots: dict[str, _Slot] = {}
        self._open: dict[str, _Slot] = {}
        """Those that are not final."""
        self._closed: deque[str] = deque()
        """Those that are, the oldest first; one that was revived may stand here and be open."""
        self._backlog = Backlog(self.options)
        self._numbers = itertools.count()
        self._tokens = itertools.count()
        self._bell = asyncio.Event()
        self._mail: dict[str, list[Mailbox]] = {}
        self._counters: Counter[str] = Counter()
        self._interval, self._ended = 0.0, time.time()
        self._hours = watching.Hours()
        self._workers: dict[str, float] = {}
        """When each was last heard of."""

    # ---------------------------------------------------------------- clients

    async def submit(self, job: Job) -> Record:
        """See `Queue`."""
        if job.id in self._slots:
            return self._slots[job.id].record
        jobs = Counter(slot.record.job.tenant for slot in self._open.values())
        own, waiting = jobs[job.tenant], self._backlog.count(job.pool, job.tenant)
        if self.options.is_full(jobs.total(), own, waiting, len({*jobs, job.tenant})):
            self._counters["refused"] += 1
            seconds = watching.retry_after(self._interval, self.options.limit)
            raise BusyError(f"the queue is full; try again in {seconds} s", seconds)
        slot = self._slots[job.id] = self._open[job.id] = _Slot(Record(job=job), self._waiting(job))
        self._counters["submitted"] += 1
        self._enqueue(slot)
        return slot.record

    async def remember(self, job: Job, result: Result) -> Record:
        """See `Queue`."""
        if job.id not in self._slots:
            slot = self._slots[job.id] = _Slot(Record(job=job), self._waiting(job))
            self._counters["submitted"] += 1
            self._end(slot, State.DONE, result=result)
        return self._slots[job.id].record

    async def get(self, id: str) -> Record:
        """See `Queue`."""
        return self._slot(id).record

    async def cancel(self, id: str) -> Record:
        """See `Queue`."""
        slot = self._slot(id)
        if not slot.record.state.final:
            self._end(slot, State.CANCELLED)
        return slot.record

    async def watch(self, id: str) -> AsyncGenerator[JobEvent]:
        """See `Queue`."""
        slot, mailbox = self._slot(id), Mailbox()
        mailboxes = self._mail.setdefault(id, [])
        mailboxes.append(mailbox)
        try:
            for event in watching.snapshot(slot.record):
                yield event
                if isinstance(event, Ended):
                    return
            while True:
                event = await mailbox.get(60.0)
                if event is not None:
                    yield event
                if isinstance(event, Ended):
                    return
        finally:
            mailboxes.remove(mailbox)
            if not mailboxes:
                self._mail.pop(id, None)

    async def wait(self, id: str, timeout: float | None = None) -> Record:
        """See `Queue`."""
        return await watching.wait(self, id, timeout)

    async def stats(self) -> Stats:
        """See `Queue`."""
        oldest = min((job.since for job in self._backlog), default=None)
        return Stats(
            waiting=sum(1 for slot in self._open.values() if slot.token is None),
            running=sum(1 for slot in self._open.values() if slot.token is not None),
            oldest=0.0 if oldest is None else time.time() - oldest,
            parked=sum(1 for slot in self._slots.values() if slot.parked is not None),
            by_pool=self._backlog.by_pool(),
            counters=dict(self._counters),
            good=self._hours.good(time.time()),
            bad=self._hours.bad(time.time()),
            workers=sum(time.time() - seen < 2 * self.options.lease for seen in self._workers.values()),
        )

    async def parked(self, count: int = 100) -> list[Record]:
        """See `Queue`."""
        found = [slot for slot in self._slots.values() if slot.parked is not None]
        found.sort(key=lambda slot: slot.parked or 0.0, reverse=True)
        return [slot.record for slot in found[:count]]

    async def revive(self, id: str) -> Record:
        """See `Queue`."""
        slot = self._slot(id)
        if slot.parked is None:
            raise NotFoundError(f"job {id} is not parked")
        slot.parked = None
        job = slot.record.job
        if job.deadline is not None and job.deadline <= time.time():  # of no use to whoever revives it
            slot.change(job=dataclasses.replace(job, deadline=None))
        slot.change(state=State.QUEUED, attempts=0, failure=None, finished=None, step=0)
        self._open[id] = slot
        self._enqueue(slot)
        return slot.record

    # ---------------------------------------------------------------- workers

    async def claim(self, card: WorkerCard, count: int, *, block: float = 0.0) -> list[Lease]:
        """See `Queue`."""
        until = time.monotonic() + block
        while True:
            self._workers[card.name] = time.time()
            self._bell.clear()
            self._wake_delayed(time.time())
            leases = self._take(card, count)
            left = until - time.monotonic()
            if leases or left <= 0:
                return leases
            try:
                async with asyncio.timeout(min(left, 0.5)):
                    await self._bell.wait()
            except TimeoutError:
                pass

    async def peek(self, card: WorkerCard, count: int) -> list[Job]:
        """See `Queue`."""
        return [self._slots[waiting.id].record.job for waiting in self._backlog.peek(card, count)]

    async def start(self, lease: Lease) -> bool:
        """See `Queue`."""
        slot = self._held(lease)
        if slot is None:
            return False
        if slot.record.state is not State.RUNNING:
            attempts = slot.record.attempts + 1
            slot.change(state=State.RUNNING, attempts=attempts, worker=lease.worker, started=time.time(), step=0)
            self._tell(Started(job=lease.job.id, attempts=attempts, worker=lease.worker))
        return True

    async def publish(self, updates: Sequence[tuple[Lease, JobEvent]]) -> list[Lease]:
        """See `Queue`."""
        lost: list[Lease] = []
        for lease, event in updates:
            slot = self._held(lease)
            if slot is None:
                lost.append(lease)
                continue
            if isinstance(event, Progress):
                slot.change(step=event.step, steps=event.steps)
            self._tell(event)
        return lost

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """See `Queue`."""
        lost: list[Lease] = []
        for lease in leases:
            self._workers[lease.worker] = time.time()
            slot = self._held(lease) or self._regained(lease)
            if slot is None:
                lost.append(lease)
            else:
                slot.expires = time.time() + self.options.lease
        return lost

    async def finish(self, lease: Lease, result: Result) -> bool:
        """See `Queue`."""
        slot = self._slots.get(lease.job.id)
        if slot is None or self._overdue(slot) or slot.record.state.final:
            return slot is not None and slot.former == lease.token and slot.record.state is State.DONE
        slot.token = lease.token
        self._end(slot, State.DONE, result=result)
        return True

    async def fail(self, lease: Lease, failure: Failure) -> None:
        """See `Queue`."""
        slot = self._held(lease)
        if slot is None:
            return
        attempts = slot.record.attempts
        if not failure.retry:
            self._end(slot, State.FAILED, failure=failure)
        elif attempts >= self.options.max_attempts:
            self._park(slot, failure)
        else:
            self._counters["retries"] += 1
            slot.change(failure=failure)
            delay = self.options.retry_delay * 2 ** max(0, attempts - 1)
            self._give_back(slot, due=time.time() + delay)

    async def release(self, lease: Lease) -> None:
        """See `Queue`."""
        slot = self._held(lease)
        if slot is not None:
            if slot.record.state is State.RUNNING:
                slot.change(attempts=slot.record.attempts - 1)
            self._give_back(slot)

    async def sweep(self) -> None:
        """See `Queue`."""
        now = time.time()
        for slot in list(self._open.values()):
            if self._overdue(slot) or slot.token is None or slot.expires > now:
                continue
            self._counters["leases_lost"] += 1
            if slot.record.attempts >= self.options.max_attempts:
                self._park(slot, slot.record.failure)
            else:
                self._give_back(slot)
        self._wake_delayed(now)
        while self._closed and self._is_old(self._closed[0], now):
            self._forget(self._closed.popleft())

    async def ping(self) -> bool:
        """See `Queue`."""
        return True

    async def trouble(self) -> str | None:
        """See `Queue`."""
        return None

    async def close(self) -> None:
        """See `Queue`."""

    # ------------------------------------------------------------------ inside

    def _slot(self, id: str) -> _Slot:
        if id not in self._slots:
            raise NotFoundError(f"no job {id[:64]!r}; it never was, or has expired")
        return self._slots[id]

    def _waiting(self, job: Job) -> Waiting:
        return Waiting(
            priority=job.priority,
            number=next(self._numbers),
            id=job.id,
            pool=job.pool,
            tenant=job.tenant,
            work=job.work,
            adapters=job.adapters,
            since=time.time(),
        )

    def _held(self, lease: Lease) -> _Slot | None:
        slot = self._slots.get(lease.job.id)
        return slot if slot is not None and slot.token == lease.token and not self._overdue(slot) else None

    def _regained(self, lease: Lease) -> _Slot | None:
        """A lease that ran out, if nobody has taken the job since: better than to begin anew elsewhere."""
        slot = self._open.get(lease.job.id)
        if slot is None or slot.token is not None or slot.former != lease.token or slot.due is not None:
            return None
        self._backlog.remove(slot.waiting)
        slot.token = lease.token
        slot.change(state=State.RUNNING)
        return slot

    def _take(self, card: WorkerCard, count: int) -> list[Lease]:
        leases: list[Lease] = []
        now = time.time()
        while len(leases) < count and (waiting := self._backlog.take(card, now)) is not None:
            slot = self._slots[waiting.id]
            if self._overdue(slot):
                continue
            slot.token = f"{card.name}/{next(self._tokens)}"
            slot.expires = now + self.options.lease
            leases.append(Lease(job=slot.record.job, worker=card.name, token=slot.token, attempts=slot.record.attempts))
        return leases

    def _enqueue(self, slot: _Slot) -> None:
        slot.due = None
        self._backlog.add(slot.waiting)
        self._tell(Queued(job=slot.record.job.id, attempts=slot.record.attempts))
        self._bell.set()

    def _give_back(self, slot: _Slot, due: float | None = None) -> None:
        slot.former, slot.token = slot.token, None
        slot.change(state=State.QUEUED, step=0)
        if due is None:
            self._enqueue(slot)
        else:
            slot.due = due

    def _wake_delayed(self, now: float) -> None:
        for slot in list(self._open.values()):
            if slot.due is not None and slot.due <= now:
                self._enqueue(slot)

    def _overdue(self, slot: _Slot) -> bool:
        """End a job whose deadline has passed."""
        deadline = slot.record.job.deadline
        if slot.record.state.final or deadline is None or time.time() <= deadline:
            return False
        self._counters["deadlines"] += 1
        self._end(slot, State.FAILED, failure=watching.overdue())
        return True

    def _park(self, slot: _Slot, last: Failure | None) -> None:
        self._counters["parked"] += 1
        slot.parked = time.time()
        self._end(slot, State.FAILED, failure=watching.poisoned(slot.record.attempts, last))

    def _end(self, slot: _Slot, state: State, *, result: Result | None = None, failure: Failure | None = None) -> None:
        now = time.time()
        self._backlog.remove(slot.waiting)
        self._open.pop(slot.record.job.id, None)
        slot.former, slot.token, slot.due = slot.token, None, None
        slot.change(state=state, finished=now, result=result, failure=failure)
        self._counters[state.value] += 1
        self._closed.append(slot.record.job.id)
        while len(self._closed) > REMEMBERED:
            self._forget(self._closed.popleft())
        self._counters["faults"] += self._hours.count(now, state, failure)
        self._interval += 0.1 * (min(60.0, now - self._ended) - self._interval)
        self._ended = now
        self._tell(Ended(job=slot.record.job.id, state=state, result=result, failure=failure))

    def _is_old(self, id: str, now: float) -> bool:
        slot = self._slots.get(id)
        return slot is None or (slot.record.finished or now) < now - self.options.keep

    def _forget(self, id: str) -> None:
        slot = self._slots.get(id)
        if slot is not None and slot.record.state.final:
            del self._slots[id]

    def _tell(self, event: JobEvent) -> None:
        stamped = dataclasses.replace(event, at=time.time())
        for mailbox in self._mail.get(event.job, ()):
            mailbox.put(stamped)
