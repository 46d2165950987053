"""Whether results can be kept. While they cannot, nothing is taken, and what could not be kept goes back uncounted."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field

from laur.core.errors import OutputError
from laur.serve.store import Store

LOG = logging.getLogger(__name__)
SHORTEST, LONGEST = 0.5, 30.0
"""Seconds between attempts to write while the store is in trouble: at first, at last."""


@dataclass(slots=True)
class Storage:
    """What is known of the store. Belongs to one event loop."""

    store: Store
    trouble: str | None = None
    """Why it cannot be written, in one line; None where it can as far as is known."""
    _broken: asyncio.Event = field(default_factory=asyncio.Event)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def down(self) -> bool:
        """Whether an OutputError is the store's trouble: a trial says, so that one file which cannot be read or written
        is still its job's own."""
        async with self._asking:
            if self.trouble is None and (why := await self._try()) is not None:
                self.trouble = why
                LOG.error("%s; no jobs are taken until it can", why)
                self._broken.set()
        return self.trouble is not None

    async def watch(self) -> None:
        """After trouble: try again, ever less often, until it is over. Runs until it is cancelled."""
        while True:
            await self._broken.wait()
            pause = SHORTEST
            while (why := await self._try()) is not None:
                self.trouble = why
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(LONGEST, 2 * pause)
            self._broken.clear()
            self.trouble = None
            LOG.warning("the store of results can be written again")

    async def _try(self) -> str | None:
        try:
            await asyncio.to_thread(self.store.probe)
        except OutputError as error:
            return str(error)
        return None
