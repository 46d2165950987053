"""What a key has left: requests by a token bucket, pictures and pixels by the day. Over Redis all servers share it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from laur.core.errors import LimitError
from laur.serve.access.keys import Key

if TYPE_CHECKING:
    from laur.serve.queue import Queue
    from laur.serve.queue.link import Link

DAY = 24 * 3600
FORGET = 10_000
"""Keys whose buckets are remembered in one process."""


class Allowance(Protocol):
    """Counts for keys."""

    async def request(self, key: Key) -> float:
        """Take a request; 0, or the seconds until one may come. Raises UnavailableError."""
        ...

    async def spend(self, key: Key, pictures: int, pixels: int) -> None:
        """Take pictures from today's; below zero they are given back. Raises LimitError, UnavailableError."""
        ...


class MemoryAllowance:
    """Inside one process."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}
        """Tokens, and when they were counted."""
        self._day = 0
        self._spent: dict[str, tuple[int, int]] = {}

    async def request(self, key: Key) -> float:
        """See `Allowance`."""
        if key.requests_per_second is None:
            return 0.0
        if len(self._buckets) > FORGET:
            self._buckets.clear()
        now = time.monotonic()
        tokens, at = self._buckets.get(key.id, (float(key.bucket), now))
        tokens = min(float(key.bucket), tokens + (now - at) * key.requests_per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / key.requests_per_second
        self._buckets[key.id] = (tokens if wait else tokens - 1, now)
        return wait

    async def spend(self, key: Key, pictures: int, pixels: int) -> None:
        """See `Allowance`."""
        now = time.time()
        if self._day != int(now // DAY):
            self._day, self._spent = int(now // DAY), {}
        before = self._spent.get(key.id, (0, 0))
        after = max(0, before[0] + pictures), max(0, before[1] + pixels)
        if pictures > 0 and _beyond(key, *after):
            raise used_up(key, DAY - now % DAY)
        self._spent[key.id] = after


class RedisAllowance:
    """Shared by all processes on one Redis, by its clock."""

    def __init__(self, link: Link, prefix: str) -> None:
        self._link, self._prefix = link, prefix

    async def request(self, key: Key) -> float:
        """See `Allowance`."""
        if key.requests_per_second is None:
            return 0.0
        wait = await self._link.script("allow", self._prefix, "{}", key.id, key.requests_per_second, key.bucket)
        return float(wait)

    async def spend(self, key: Key, pictures: int, pixels: int) -> None:
        """See `Allowance`."""
        if key.pictures_per_day is None and key.pixels_per_day is None:
            return
        most = key.pictures_per_day or 0, key.pixels_per_day or 0
        left = await self._link.script("spend", self._prefix, "{}", key.id, pictures, pixels, *most)
        if float(left) > 0:
            raise used_up(key, float(left))


def open_allowance(queue: Queue) -> Allowance:
    """The one that belongs to a queue: in the same process or on the same Redis."""
    from laur.serve.queue.redis import RedisQueue

    return RedisAllowance(queue.link, queue.prefix) if isinstance(queue, RedisQueue) else MemoryAllowance()


def used_up(key: Key, seconds: float) -> LimitError:
    """Why nothing more is drawn today."""
    limits = [f"{key.pictures_per_day:,} pictures"] if key.pictures_per_day else []
    limits += [f"{key.pixels_per_day:,} pixels"] if key.pixels_per_day else []
    return LimitError(f"this key draws at most {' and '.join(limits)} a day; it may again after midnight, UTC", seconds)


def _beyond(key: Key, pictures: int, pixels: int) -> bool:
    return pictures > (key.pictures_per_day or pictures) or pixels > (key.pixels_per_day or pixels)
