"""The queue as one tenant sees it: jobs of others are not there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from laur.core.errors import NotFoundError, RecipeError
from laur.serve.events import JobEvent
from laur.serve.job import Job, Record, Result
from laur.serve.queue import Queue, QueueOptions, Stats


class OwnJobs:
    """What routes use of a `Queue`, and no more: what only workers and operators do is not to be had here."""

    def __init__(self, queue: Queue, tenant: str) -> None:
        self._queue, self._tenant = queue, tenant
        self.options: QueueOptions = queue.options

    async def submit(self, job: Job) -> Record:
        """See `Queue`. Raises RecipeError where another tenant's job has the id."""
        return self._mine(await self._queue.submit(job))

    async def remember(self, job: Job, result: Result) -> Record:
        """See `Queue`. Raises RecipeError where another tenant's job has the id."""
        return self._mine(await self._queue.remember(job, result))

    async def get(self, id: str) -> Record:
        """See `Queue`."""
        record = await self._queue.get(id)
        if record.job.tenant != self._tenant:  # the same words as where there is none
            raise NotFoundError(f"no job {id[:64]!r}; it never was, or has expired")
        return record

    async def cancel(self, id: str) -> Record:
        """See `Queue`."""
        await self.get(id)
        return await self._queue.cancel(id)

    async def watch(self, id: str) -> AsyncGenerator[JobEvent]:
        """See `Queue`."""
        await self.get(id)
        async with aclosing(self._queue.watch(id)) as events:
            async for event in events:
                yield event

    async def wait(self, id: str, timeout: float | None = None) -> Record:
        """See `Queue`."""
        await self.get(id)
        return await self._queue.wait(id, timeout)

    async def stats(self) -> Stats:
        """See `Queue`: of all tenants together."""
        return await self._queue.stats()

    async def ping(self) -> bool:
        """See `Queue`."""
        return await self._queue.ping()

    async def trouble(self) -> str | None:
        """See `Queue`."""
        return await self._queue.trouble()

    def _mine(self, record: Record) -> Record:
        if record.job.tenant != self._tenant:
            raise RecipeError(f"the id {record.job.id} is taken; choose another, or leave it out")
        return record
