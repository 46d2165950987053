"""What a worker does beside drawing, again and again: it renews leases, tells watchers, and sweeps."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass

from laur.core.errors import UnavailableError
from laur.serve.cache import Index
from laur.serve.queue import Queue
from laur.serve.store import Store
from laur.serve.worker.held import Hand
from laur.serve.worker.way import Way

LOG = logging.getLogger(__name__)
EXPIRY = 600.0
"""Seconds between sweeps of the store."""


@dataclass(slots=True)
class Upkeep:
    """Services of one worker; each runs until it is cancelled."""

    queue: Queue
    store: Store
    index: Index
    hand: Hand
    way: Way
    reached: float | None = None
    """When the queue answered last, by `time.monotonic`; None until it has."""

    async def publish(self) -> None:
        """Progress and previews, as many at a time as have come."""
        while True:
            await self.way.unsent.wait()
            self.way.unsent.clear()
            batch, self.way.updates = self.way.updates, []
            mine = [(held, event) for held, event in batch if self.way.has(held)]
            try:
                lost = await self.queue.publish([(held.lease, event) for held, event in mine])
            except UnavailableError:  # progress that nobody hears is not worth keeping
                continue
            await self.way.lose(lost)

    async def renew(self) -> None:
        """Leases, and the lead over files that others wait for."""
        while True:
            await asyncio.sleep(self.queue.options.lease / 3)
            held = list(self.hand)
            try:
                await self.way.lose(await self.queue.renew([entry.lease for entry in held]))
                for entry in held:
                    if entry.leads and entry.file and self.way.has(entry):
                        await self.index.lead(entry.file, entry.lease.token, self.queue.options.lease)
                if held:  # else nothing was asked
                    self.reached = time.monotonic()
            except UnavailableError as error:
                LOG.warning("%s", error)

    async def sweep(self) -> None:
        """The queue: dead workers, deadlines."""
        while True:
            await asyncio.sleep(self.queue.options.lease * random.uniform(0.3, 0.6))
            try:
                await self.queue.sweep()
            except UnavailableError as error:
                LOG.warning("%s", error)

    async def expire(self) -> None:
        """Results that are older than they are kept."""
        while True:
            await asyncio.sleep(EXPIRY * random.uniform(0.5, 1.5))
            try:
                await asyncio.to_thread(self.store.sweep)
            except OSError as error:
                LOG.warning("the store of results could not be swept: %s", error)
