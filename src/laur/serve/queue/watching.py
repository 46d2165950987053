"""What both queues share on the side of those who watch."""

from __future__ import annotations

import asyncio
from collections import deque

from laur.serve.events import Ended, JobEvent, Progress, Queued, Started
from laur.serve.job import Failure, Record, State
from laur.serve.observe.objective import HOUR, WINDOW
from laur.serve.queue.protocol import Queue

MAILBOX = 256
"""Events kept for a watcher that is slow; older ones are dropped, the end never."""


def snapshot(record: Record) -> list[JobEvent]:
    """Where a job is, as the events that led there."""
    number, job = record.job.id, record.job
    if record.state.final:
        at = record.finished or 0.0
        return [Ended(job=number, at=at, state=record.state, result=record.result, failure=record.failure)]
    if record.state is State.QUEUED:
        return [Queued(job=number, at=job.created, attempts=record.attempts)]
    at = record.started or 0.0
    events: list[JobEvent] = [Started(job=number, at=at, attempts=record.attempts, worker=record.worker or "")]
    if record.step:
        events.append(Progress(job=number, at=at, step=record.step, steps=record.steps))
    return events


class Mailbox:
    """Events for one watcher."""

    def __init__(self) -> None:
        self._events: deque[JobEvent] = deque(maxlen=MAILBOX)
        self._bell = asyncio.Event()

    def put(self, event: JobEvent) -> None:
        """Deliver; never waits."""
        self._events.append(event)
        self._bell.set()

    async def get(self, timeout: float) -> JobEvent | None:
        """The next event, or None after `timeout` seconds."""
        if not self._events:
            self._bell.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._bell.wait()
            except TimeoutError:
                return None
        return self._events.popleft()


class Hours:
    """Good and bad ends by the hour, for as long as an objective looks back."""

    def __init__(self) -> None:
        self._ends: dict[int, list[int]] = {}

    def count(self, now: float, state: State, failure: Failure | None) -> bool:
        """Count an end, if it is one or the other; whether it was bad."""
        bad = state is State.FAILED and failure is not None and failure.status >= 500
        if not bad and state is not State.DONE:
            return False
        self._ends.setdefault(int(now // HOUR), [0, 0])[bad] += 1
        for hour in [hour for hour in self._ends if not within(hour, now)]:
            del self._ends[hour]
        return bad

    def good(self, now: float) -> int:
        """Jobs done."""
        return sum(ends[0] for hour, ends in self._ends.items() if within(hour, now))

    def bad(self, now: float) -> int:
        """Jobs that failed by no fault of the wish."""
        return sum(ends[1] for hour, ends in self._ends.items() if within(hour, now))


def within(hour: int, now: float) -> bool:
    """Whether an hour (since 1970) lies within an objective's window."""
    return (hour + 1) * HOUR > now - WINDOW


async def wait(queue: Queue, id: str, timeout: float | None) -> Record:
    """`Queue.wait` by way of `Queue.watch`."""
    watch = queue.watch(id)
    try:
        async with asyncio.timeout(timeout):
            async for event in watch:
                if isinstance(event, Ended):
                    break
    except TimeoutError:
        pass
    finally:
        await watch.aclose()
    return await queue.get(id)


def overdue() -> Failure:
    """Why a job failed that came too late."""
    return Failure(kind="deadline", message="the deadline passed before the picture was finished", status=504)


def poisoned(attempts: int, last: Failure | None) -> Failure:
    """Why a job is not tried again."""
    why = last.message if last else "each time its worker stopped without an answer"
    return Failure(kind="poison", message=f"given up after {attempts} attempts: {why}", status=500)


def retry_after(interval: float, limit: int) -> int:
    """Seconds in which a tenth of a full queue is done, from the mean seconds between two ends; 1 to 60."""
    return int(min(60, max(1, round(interval * max(1, limit / 10) + 0.5))))
