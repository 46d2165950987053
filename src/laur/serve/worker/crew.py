"""All workers of one process: one for each device, over one queue. Each pulls for itself, so the faster draw more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laur.serve.queue import Queue
    from laur.serve.worker.worker import Worker


class Crew:
    """One or more workers that begin and end together."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        assert workers
        self.workers = tuple(workers)

    @property
    def queue(self) -> Queue:
        """Where they take their jobs."""
        return self.workers[0].queue

    @property
    def fault(self) -> Exception | None:
        """Why an Engine could not be opened, or why it ended by itself."""
        return next((worker.thread.fault for worker in self.workers if worker.thread.fault is not None), None)

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return all(worker.draining for worker in self.workers)

    @property
    def ready(self) -> bool:
        """Whether any takes jobs."""
        return any(worker.ready for worker in self.workers)

    @property
    def reason(self) -> str | None:
        """Why none takes jobs; None where one does."""
        return None if self.ready else self.workers[0].reason

    @property
    def live(self) -> bool:
        """Whether all still work: a restart would cure the one that does not."""
        return all(worker.live for worker in self.workers)

    def drain(self) -> None:
        """Take nothing new, finish what is in hand, then end `run`."""
        for worker in self.workers:
            worker.drain()

    async def run(self) -> None:
        """Work until drained. Where one's Engine cannot be opened or ends, the others end too; its fault is raised."""
        tasks = [asyncio.create_task(worker.run()) for worker in self.workers]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.drain()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            task.result()
