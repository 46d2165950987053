"""The connection to Redis: it breaks, and comes back.

Every script may run twice without harm, so a call whose answer was lost is simply made again, with growing pauses,
until Redis has been away for longer than the caller's patience. A restart, a fail-over (the old primary answers
READONLY) and a cut network all look the same from here. A Redis that is full or cannot write to its disk says so
itself, and may for hours: then nothing is waited for.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from laur.core.errors import MissingDependencyError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

SHORTEST, LONGEST = 0.05, 1.0
"""Seconds between attempts to reach Redis."""
ANSWER = 5.0
"""Seconds after which an answer is not waited for any more."""

LASTING = {
    "OOM": "Redis is full; raise its maxmemory, or wait until results expire",
    "MISCONF": "Redis cannot write to its disk; free space there, its log says more",
    "NOREPLICAS": "Redis has fewer replicas than min-replicas-to-write; start them or lower it",
}
"""Replies that may stay for hours, and what they mean."""
PASSING = {
    "READONLY": "Redis takes no writes, it is a replica; name the primary in --redis",
    "BUSY": "Redis is busy with another program's script; see SCRIPT KILL",
    "LOADING": "Redis is still loading its data; wait until it has",
    "MASTERDOWN": "Redis is a replica that has lost its primary; bring that back or name another in --redis",
    "TRYAGAIN": "Redis moves its keys at present; wait until it has",
    "CLUSTERDOWN": "the cluster of Redis is down; see CLUSTER INFO",
}
"""Replies that a fail-over or a start ends within seconds; what they mean where they stay."""
_CODE = re.compile(rf"(?:^|-)({'|'.join((*LASTING, *PASSING))})\b")


class Link:
    """Scripts and commands on one Redis, by URL."""

    def __init__(self, url: str, *, outage: float) -> None:
        """`redis://`, `rediss://`, `unix://`, or `redis+sentinel://host:port,host:port/name/db`."""
        self.client = connect(url)
        self.outage = outage
        self.breaks = 0
        """Calls that had to be made again."""
        self._scripts: dict[str, Any] = {}

    async def script(self, name: str, prefix: str, *arguments: str | int | float) -> Any:
        """Run `lua/NAME.lua`. Raises UnavailableError where Redis stays away."""
        if name not in self._scripts:
            self._scripts[name] = self.client.register_script(source(name))
        return await self.call(lambda: self._scripts[name](keys=[prefix], args=list(arguments)))

    async def call(self, action: Callable[[], Awaitable[T]]) -> T:
        """Await an action again and again until Redis answers.

        Raises UnavailableError where it stays away, and at once where it says that it is full or cannot write.
        """
        from redis import exceptions

        began, pause = time.monotonic(), SHORTEST
        while True:
            try:
                answer = await action()
                _obey()
                return answer
            except (exceptions.RedisError, OSError) as error:
                _obey()
                code = code_of(error)
                if code in LASTING:
                    raise UnavailableError(LASTING[code]) from None
                if code not in PASSING and not isinstance(error, _lost()):
                    raise
                self.breaks += 1
                if code == "READONLY":  # this one is no primary any more: look for it anew
                    await self.client.connection_pool.disconnect()
                if time.monotonic() - began + pause > self.outage:
                    raise UnavailableError(_away(code, error)) from None
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONGEST, 2 * pause)

    async def trouble(self, prefix: str) -> str | None:
        """Why Redis takes no writes at this moment; None where it does."""
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(1.0):
                await self.client.set(f"{prefix}alive", 1, px=60_000)
        except (RedisError, OSError, TimeoutError) as error:
            code = code_of(error)
            return LASTING.get(code) or PASSING.get(code) or "the queue does not answer"
        return None

    async def close(self) -> None:
        """Close all connections."""
        pool: Any = self.client.connection_pool
        await self.client.aclose()
        await pool.disconnect()
        for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
            await sentinel.aclose()


def _obey() -> None:
    """Go on being cancelled: redis-py at times turns a cancellation that meets it while connecting into an error."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def code_of(error: BaseException) -> str:
    """The first word of Redis's reply where it is one of those above, else nothing."""
    from redis import exceptions

    known = ((exceptions.OutOfMemoryError, "OOM"), (exceptions.ReadOnlyError, "READONLY"))
    known += ((exceptions.BusyLoadingError, "LOADING"), (exceptions.MasterDownError, "MASTERDOWN"))
    known += ((exceptions.TryAgainError, "TRYAGAIN"), (exceptions.ClusterDownError, "CLUSTERDOWN"))
    for kind, code in known:  # redis-py takes the word away from those that it knows
        if isinstance(error, kind):
            return code
    found = _CODE.search(str(error)) if isinstance(error, exceptions.ResponseError) else None
    return found[1] if found else ""  # Redis 6 says it in the middle, where a script met it


def _lost() -> tuple[type[BaseException], ...]:
    """A connection that broke."""
    from redis import exceptions

    return (exceptions.ConnectionError, exceptions.TimeoutError, OSError)


def _away(code: str, error: BaseException) -> str:
    return PASSING.get(code) or f"Redis does not answer: {' '.join(str(error).split())[:200]}"


def connect(url: str) -> Redis:
    """A client that leaves trying again to us. Raises NotFoundError for a URL of no known form."""
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.asyncio.sentinel import Sentinel
        from redis.backoff import NoBackoff
    except ImportError:
        raise MissingDependencyError("--redis needs redis-py; install it with: pip install 'lcm-laur[serve]'") from None
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": ANSWER,
        "socket_connect_timeout": 2.0,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
    }
    parts = urlsplit(url)
    try:
        if parts.scheme == "redis+sentinel":
            name, _, db = parts.path.strip("/").partition("/")
            hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
            login = {"username": parts.username, "password": parts.password, "db": int(db or 0)}
            sentinel = Sentinel([(host, int(port)) for host, _, port in hosts], socket_timeout=2.0)
            return sentinel.master_for(name or "mymaster", **{k: v for k, v in login.items() if v}, **options)
        if parts.scheme not in {"redis", "rediss", "unix"}:
            raise ValueError(parts.scheme)
        return Redis.from_url(url, **options)
    except ValueError:
        shown = f"{parts.scheme}://…"  # never the password
        raise NotFoundError(f"{shown} is no Redis URL; write redis://HOST:PORT/0, rediss://… or unix://…") from None


@cache
def source(name: str) -> str:
    """A script with what all of them begin with."""
    folder = Path(__file__).parent / "lua"
    return "".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name))


def pairs(flat: Sequence[Any]) -> dict[str, Any]:
    """From Redis's flat lists of names and values."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
