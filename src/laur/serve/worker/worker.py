"""A worker: takes jobs, draws them together, and answers for each exactly once.

Leases are renewed while a job is in hand; what is cancelled, late or lost is dropped at the next step. A file that
another job is drawing at this moment, here or elsewhere, is waited for. SIGTERM drains: nothing new is taken, what is
being drawn is finished, and what is left after `grace` seconds goes back to the queue. Where the Engine's thread ends
by a fault everything goes back at once and `run` raises it: only a new process has a sound Engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from laur.core.errors import UnavailableError
from laur.serve.cache import Index
from laur.serve.inputs import Inputs
from laur.serve.job import Failure, pool_of
from laur.serve.observe.trace import OFF, Tracing
from laur.serve.queue import Lease, Queue, WorkerCard
from laur.serve.safety.base import Safety
from laur.serve.store import Store
from laur.serve.worker.held import LATENT, Hand, Held
from laur.serve.worker.journey import Journey
from laur.serve.worker.messages import Told
from laur.serve.worker.names import Names
from laur.serve.worker.noting import observe
from laur.serve.worker.options import WorkerOptions
from laur.serve.worker.tally import Tally
from laur.serve.worker.thread import EngineThread
from laur.serve.worker.upkeep import Upkeep
from laur.serve.worker.way import Way

if TYPE_CHECKING:
    from laur.pipeline.engine import Engine
    from laur.pipeline.lanes import RowCap

LOG = logging.getLogger(__name__)
BEYOND, PAUSE = 1.0, 0.02
"""Full batches that may be taken above the limit for tenants with little in hand; seconds between looks for them."""
LOOK, AHEAD, ASKED = 0.5, 8, 256
"""Seconds between looks at those who wait, how many are looked at, how many are remembered as looked at."""


class Worker:
    """One Engine's worth of drawing. Belongs to one event loop; `run` once."""

    def __init__(
        self,
        queue: Queue,
        store: Store,
        index: Index,
        make: Callable[[], Engine],
        *,
        names: Names,
        cap: RowCap,
        options: WorkerOptions | None = None,
        tracing: Tracing = OFF,
        safety: Safety | None = None,
    ) -> None:
        """`make` opens the Engine in its thread; `cap` says how many rows of a size make a full batch."""
        self.options = options or WorkerOptions()
        self.queue, self.store, self.index, self.names = queue, store, index, names
        self.hand = Hand(cap=cap, limit=self.options.load, usual=(self.options.native // LATENT) ** 2)
        self.thread = EngineThread(make, self._arrived, self._gone)
        self.tally = Tally()
        self.draining = False
        self.tracing = tracing
        self.way = Way(
            queue, store, index, names, Inputs(store), self.thread, self.hand, self.tally, self.options, safety
        )
        self.upkeep = Upkeep(queue, store, index, self.hand, self.way)
        self._shown = WorkerCard(name=self.options.name)
        """The card that it asked for jobs with last."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------------ state

    @property
    def loaded(self) -> bool:
        """Whether the Engine is open."""
        return self.thread.loaded.is_set() and self.thread.fault is None

    @property
    def live(self) -> bool:
        """Whether it still works: false only for what a restart would cure."""
        if self.thread.fault is not None:
            return False
        pulse = self.thread.pulse
        stalled = pulse.working and time.monotonic() - pulse.beat > self.options.stall
        return not stalled and (self.thread.alive or self._loop is None or self.draining)

    @property
    def ready(self) -> bool:
        """Whether it takes jobs: loaded, not draining, results can be kept, the queue answered a short while ago."""
        reached = self.upkeep.reached
        recent = reached is not None and time.monotonic() - reached < 2 * self.queue.options.lease
        able = self.loaded and self.thread.alive and self.way.storage.trouble is None
        return able and not self.draining and recent

    @property
    def reason(self) -> str | None:
        """Why it takes no jobs; None where it does."""
        if self.thread.fault is not None:
            return "the engine has ended"
        if self.draining:
            return "it is draining"
        if not self.loaded:
            return "the engine is being loaded"
        if not self.thread.alive:
            return "the engine has ended"
        if self.way.storage.trouble is not None or self.ready:
            return self.way.storage.trouble
        return f"the queue has not answered {'yet' if self.upkeep.reached is None else 'for a while'}"

    def drain(self) -> None:
        """Take nothing new, finish what is in hand, then end `run`."""
        self.draining = True
        self.way.changed.set()

    # -------------------------------------------------------------------- run

    async def run(self) -> None:
        """Work until drained. Raises the Engine's fault where it cannot be opened, UnavailableError where it ended."""
        self._loop = asyncio.get_running_loop()
        self.thread.start()
        await asyncio.to_thread(self.thread.loaded.wait)
        if self.thread.fault is not None:
            raise self.thread.fault
        claiming = self._spawn(self._always(self._claim))
        keep = self.upkeep
        for service in (keep.publish, keep.renew, keep.sweep, keep.expire, self.way.storage.watch, self._foresee):
            self._spawn(self._always(service))
        try:
            await claiming
            await self._finish_what_is_left()
        finally:
            self.thread.stop()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.to_thread(self.thread.join, self.options.grace)
        if self.thread.fault is not None:
            raise self.thread.fault

    async def _finish_what_is_left(self) -> None:
        until = time.monotonic() + self.options.grace
        while len(self.hand) and self.thread.fault is None and (left := until - time.monotonic()) > 0:
            self.way.changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self.way.changed.wait()
            except TimeoutError:
                break
        for held in self.hand:
            await self._give_back(held)

    async def _give_back(self, held: Held) -> None:
        """Without an attempt counted, unless the Engine ended by a fault: a job that causes such faults would else go
        from worker to worker without end. The others are drawn alone after two, so it parks none of them with it."""
        fault = self.thread.fault
        await self.way.drop(held, "handed back")
        try:
            async with asyncio.timeout(5.0):
                if fault is None:
                    await self.queue.release(held.lease)
                else:
                    await self.queue.fail(held.lease, dataclasses.replace(Failure.of(fault), retry=True))
        except Exception as error:  # its lease runs out by itself, and the others are still to be handed back
            LOG.warning("job %s could not be handed back; its lease will end: %r", held.lease.job.id, error)

    async def _always(self, service: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A part of the worker that nothing but the end of the worker may end."""
        while True:
            try:
                await service()
                return
            except Exception:
                LOG.exception("a part of the worker met an unexpected fault and begins anew")
                await asyncio.sleep(1.0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOG.error("a part of the worker stopped", exc_info=error)

    # --------------------------------------------------------------- services

    def card(self) -> WorkerCard:
        """What it tells the queue when it asks for jobs."""
        own = pool_of(None)
        serves = frozenset({own, *(pool_of(name) for name in self.names.models())})
        held = [held.lease.job for held in self.hand]
        adapters = frozenset(name for job in held for name in job.adapters)
        holds = frozenset({own, *(pool_of(job.recipe.checkpoint) for job in held)})
        if self.thread.engine is not None:
            library = self.thread.engine.library
            adapters |= self.thread.residents.adapters(library)
            holds |= self.thread.residents.checkpoints(library)
        name, largest = self.options.name, self.options.largest
        return WorkerCard(name=name, serves=serves, size_class=largest, holds=holds, adapters=adapters)

    async def _claim(self) -> None:
        while not self.draining and self.thread.fault is None:
            if self.way.storage.trouble is not None:  # what is drawn could not be kept
                await asyncio.sleep(PAUSE)
                continue
            self.way.changed.clear()
            room = self.hand.room()
            try:
                self._shown = self.card()
                if room:
                    leases = await self.queue.claim(self._shown, room, block=self.options.block)
                    self.upkeep.reached = time.monotonic()
                else:
                    leases = await self._squeeze(self._shown)
            except UnavailableError as error:
                LOG.warning("%s", error)
                await asyncio.sleep(1.0)
                continue
            for lease in leases:
                self._take(lease)

    async def _squeeze(self, card: WorkerCard) -> list[Lease]:
        """With its hands full it still takes jobs of tenants who have nothing or little in them."""
        room, card = self.hand.room(BEYOND), dataclasses.replace(card, without=self.hand.crowd())
        while not self.way.changed.is_set():
            leases = await self.queue.claim(card, room) if room else []
            self.upkeep.reached = time.monotonic() if room else self.upkeep.reached
            if leases:
                return leases
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE if room else None):
                    await self.way.changed.wait()
        return []

    async def _foresee(self) -> None:
        """While there is no room for more: have the adapters read of those who wait."""
        asked: deque[str] = deque(maxlen=ASKED)
        while True:
            await asyncio.sleep(LOOK)
            if self.draining or self.hand.room():
                continue
            card = self.card()
            try:
                jobs = await self.queue.peek(card, AHEAD)
            except UnavailableError:
                continue
            for job in jobs:
                loaded = pool_of(job.recipe.checkpoint) in card.holds
                if loaded and not card.adapters.issuperset(job.adapters) and job.id not in asked:
                    asked.append(job.id)
                    self.thread.foresee(job.recipe)

    def _take(self, lease: Lease) -> None:
        job, card = lease.job, self._shown
        self.tally.checkpoints.count(pool_of(job.recipe.checkpoint) in card.holds)
        if job.adapters:
            self.tally.adapters.count(card.adapters.issuperset(job.adapters))
        solo = lease.attempts >= self.options.solo_after
        journey = Journey(lease, self.tally, self.tracing)
        held = Held(lease=lease, journey=journey, load=self.hand.load_of(job), solo=solo)
        self.hand.jobs[job.id] = held
        self._spawn(self.way.guarded(held, self.way.begin(held)))

    # ------------------------------------------------------ from the thread

    def _arrived(self, told: list[Told]) -> None:
        """Called in the Engine's thread."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._sort, told)
        except RuntimeError:  # the loop has ended
            LOG.debug("%d messages came after the end", len(told))

    def _gone(self) -> None:
        """Called in the Engine's thread when that ends by a fault: nobody need wait for room."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.way.changed.set)

    def _sort(self, told: list[Told]) -> None:
        for held, item in observe(told, self.hand, self.tracing):
            self._spawn(self.way.guarded(held, self.way.handle(held, item)))
