"""One connection reads what happens to all jobs and hands it to those who watch, instead of one connection for each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from laur.core.errors import UnavailableError
from laur.serve.events import JobEvent, from_dict
from laur.serve.queue.link import Link
from laur.serve.queue.watching import Mailbox

BLOCK = 1000
"""Milliseconds that Redis holds a read that finds nothing."""


class Tail:
    """The end of the stream of events."""

    def __init__(self, link: Link, stream: str) -> None:
        self._link = link
        self._stream = stream
        self._watchers: dict[str, list[tuple[Mailbox, list[str]]]] = {}
        self._last: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @asynccontextmanager
    async def watching(self, job: str) -> AsyncGenerator[tuple[Mailbox, list[str]]]:
        """A mailbox for one job's events; those up to the id put into the list beside it are left out."""
        entry: tuple[Mailbox, list[str]] = (Mailbox(), [])
        self._watchers.setdefault(job, []).append(entry)
        try:
            async with self._starting:
                if self._task is None or self._task.done():
                    self._last = await self._newest()
                    self._task = asyncio.create_task(self._read(), name="laur-events")
            yield entry
        finally:
            self._watchers[job].remove(entry)
            if not self._watchers[job]:
                del self._watchers[job]

    async def close(self) -> None:
        """Stop reading."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _newest(self) -> str:
        found: Any = await self._link.call(lambda: self._link.client.xrevrange(self._stream, count=1))
        return found[0][0] if found else "0-0"

    async def _read(self) -> None:
        """Ends by itself with the read after which nobody watches: to interrupt one can take as long as it blocks."""
        while self._watchers:
            try:
                found: Any = await self._link.call(self._more)
            except UnavailableError:
                continue  # those who watch look for themselves
            for _, entries in found or ():
                for number, fields in entries:
                    self._last = number
                    self._deliver(number, fields)

    async def _more(self) -> Any:
        assert self._last is not None
        return await self._link.client.xread({self._stream: self._last}, count=500, block=BLOCK)

    def _deliver(self, number: str, fields: dict[str, str]) -> None:
        watchers = self._watchers.get(fields["job"])
        if not watchers:
            return
        event = decode(fields)
        for mailbox, told in watchers:
            if not told or order(number) > order(told[0]):
                mailbox.put(event)


def decode(fields: dict[str, str]) -> JobEvent:
    """From an entry of the stream."""
    head = {"event": fields["event"], "job": fields["job"], "at": float(fields["at"])}
    return from_dict({**head, **json.loads(fields["body"])})


def order(number: str) -> tuple[int, ...]:
    """Ids of entries, comparable."""
    return tuple(int(part) for part in number.split("-"))
