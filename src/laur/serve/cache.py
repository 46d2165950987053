"""Results that were drawn before: found by recipe without asking a worker, and drawn once when many ask together.

An index entry is found by the hash of the recipe as it was asked for, with a seed, and of how the file is written. It
is believed for a while only, since the files behind names may change; recipes that name contents too are exact anyway.
What workers share is `Flights`: who draws a file that others want as well.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from laur import __version__
from laur.serve.job import Job, Result

if TYPE_CHECKING:
    from laur.serve.queue import Queue
    from laur.serve.queue.link import Link

ENTRIES = 10_000


def wish_key(job: Job) -> str | None:
    """What is the same for jobs that give the same file; None where the seed is open, as then each is new."""
    if job.recipe.seed is None:
        return None
    text = json.dumps([__version__, job.recipe.hash, job.format, job.metadata])
    return hashlib.sha256(text.encode()).hexdigest()


class Index(Protocol):
    """Results by `wish_key`, and who is under way to which file."""

    async def get(self, key: str) -> Result | None:
        """The result, while it is believed."""
        ...

    async def put(self, key: str, result: Result) -> None:
        """Remember a result."""
        ...

    async def lead(self, file: str, owner: str, seconds: float) -> bool:
        """Become, or stay, the one who draws `file`, for so many seconds; False where another is."""
        ...

    async def leave(self, file: str, owner: str) -> None:
        """Lead no longer; nothing where another does."""
        ...


class MemoryIndex:
    """Inside one process."""

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._results: OrderedDict[str, tuple[float, Result]] = OrderedDict()
        self._leads: dict[str, tuple[float, str]] = {}

    async def get(self, key: str) -> Result | None:
        """See `Index`."""
        until, result = self._results.get(key, (0.0, None))
        return result if until > time.monotonic() else None

    async def put(self, key: str, result: Result) -> None:
        """See `Index`."""
        self._results[key] = (time.monotonic() + self._ttl, result)
        self._results.move_to_end(key)
        while len(self._results) > ENTRIES:
            self._results.popitem(last=False)

    async def lead(self, file: str, owner: str, seconds: float) -> bool:
        """See `Index`."""
        until, leader = self._leads.get(file, (0.0, owner))
        if leader != owner and until > time.monotonic():
            return False
        self._leads[file] = (time.monotonic() + seconds, owner)
        return True

    async def leave(self, file: str, owner: str) -> None:
        """See `Index`."""
        if file in self._leads and self._leads[file][1] == owner:
            del self._leads[file]


class RedisIndex:
    """Shared by all processes on one Redis."""

    def __init__(self, link: Link, prefix: str, ttl: float) -> None:
        self._link, self._prefix, self._ttl = link, prefix, ttl

    async def get(self, key: str) -> Result | None:
        """See `Index`."""
        client = self._link.client
        found = await self._link.call(lambda: client.get(f"{self._prefix}result:{key}"))
        return None if found is None else Result.from_dict(json.loads(found))

    async def put(self, key: str, result: Result) -> None:
        """See `Index`."""
        client, text, ttl = self._link.client, json.dumps(result.to_dict()), max(1, int(1000 * self._ttl))
        await self._link.call(lambda: client.set(f"{self._prefix}result:{key}", text, px=ttl))

    async def lead(self, file: str, owner: str, seconds: float) -> bool:
        """See `Index`."""
        return bool(await self._link.script("lead", self._prefix, "{}", file, owner, max(1, int(1000 * seconds))))

    async def leave(self, file: str, owner: str) -> None:
        """See `Index`."""
        await self._link.script("lead", self._prefix, "{}", file, owner, 0)


def open_index(queue: Queue, ttl: float) -> Index:
    """The index that belongs to a queue: in the same process or on the same Redis. `ttl` is for how many seconds a
    result is believed."""
    from laur.serve.queue.memory import MemoryQueue

    if isinstance(queue, MemoryQueue):
        return MemoryIndex(ttl)
    from laur.serve.queue.redis import RedisQueue

    assert isinstance(queue, RedisQueue)
    return RedisIndex(queue.link, queue.prefix, ttl)
