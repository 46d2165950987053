"""Queues: one protocol, in this process or over Redis. `open_queue(url)` chooses."""

from __future__ import annotations

from laur.serve.queue.protocol import Lease, Queue, QueueOptions, Stats, WorkerCard

__all__ = ["Lease", "Queue", "QueueOptions", "Stats", "WorkerCard", "open_queue"]


def open_queue(url: str | None = None, options: QueueOptions | None = None) -> Queue:
    """The queue at a `redis://`, `rediss://` or `unix://` URL, or without one a queue inside this process.

    Nothing is connected yet. Raises MissingDependencyError where redis-py is not installed.
    """
    if url is None:
        from laur.serve.queue.memory import MemoryQueue

        return MemoryQueue(options)
    from laur.serve.queue.redis import RedisQueue

    return RedisQueue(url, options)
