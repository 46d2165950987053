"""The connection to Redis: it breaks, and comes back.

Every script may run twice without harm, so a call whose answer was lost is simply made again, with growing pauses,
until Redis has been away for longer than the caller's patience. A restart, a fail-over (the old primary answers
READONLY) and a cut network all look the same from here.
"""

from __future__ import annotations

import asyncio
import random
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
        """Await an action again and again until Redis answers. Raises UnavailableError where it stays away."""
        from redis import exceptions

        began, pause = time.monotonic(), SHORTEST
        while True:
            try:
                answer = await action()
                _obey()
                return answer
            except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, OSError) as error:
                _obey()
                self.breaks += 1
                if isinstance(error, exceptions.ReadOnlyError):  # this one is no primary any more: look for it anew
                    await self.client.connection_pool.disconnect()
                if time.monotonic() - began + pause > self.outage:
                    raise UnavailableError(f"Redis does not answer: {' '.join(str(error).split())[:200]}") from None
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONGEST, 2 * pause)

    async def alive(self) -> bool:
        """Whether Redis answers now."""
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(1.0):
                return bool(await self.client.execute_command("PING"))  # pyright: ignore[reportGeneralTypeIssues]
        except (RedisError, OSError, TimeoutError):
            return False

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
