"""A worker: takes jobs, draws them together, and answers for each exactly once.

Leases are renewed while a job is in hand; what is cancelled, late or lost is dropped at the next step. A file that
another job is drawing at this moment, here or elsewhere, is waited for. SIGTERM drains: nothing new is taken, what is
being drawn is finished, and what is left after `grace` seconds goes back to the queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from laur.core.errors import LaurError, UnavailableError
from laur.serve import events
from laur.serve.cache import Index, wish_key
from laur.serve.inputs import Inputs, mentioned
from laur.serve.job import Failure, Job, Result, State, pool_of, short_hash
from laur.serve.queue import Lease, Queue, WorkerCard
from laur.serve.store import Store
from laur.serve.worker import previews
from laur.serve.worker.held import LATENT, Hand, Held
from laur.serve.worker.keys import in_format
from laur.serve.worker.messages import Broke, Drawn, Planned, Stepped, Told
from laur.serve.worker.names import Names
from laur.serve.worker.options import WorkerOptions
from laur.serve.worker.tally import Tally
from laur.serve.worker.thread import EngineThread

if TYPE_CHECKING:
    from laur.input.image import InputPicture
    from laur.pipeline.engine import Engine
    from laur.pipeline.lanes import RowCap

LOG = logging.getLogger(__name__)
FOLLOW = 0.05, 0.5
"""Seconds between looks at a file that another draws: at first, at last."""
EXPIRY = 600.0
"""Seconds between sweeps of the store."""


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
    ) -> None:
        """`make` opens the Engine in its thread; `cap` says how many rows of a size make a full batch."""
        self.options = options or WorkerOptions()
        self.queue, self.store, self.index, self.names = queue, store, index, names
        self.inputs = Inputs(store)
        self.hand = Hand(cap=cap, limit=self.options.load, usual=(self.options.native // LATENT) ** 2)
        self.thread = EngineThread(make, self._arrived)
        self.tally = Tally()
        self.draining = False
        self._changed = asyncio.Event()
        self._updates: list[tuple[Held, events.JobEvent]] = []
        self._unsent = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reached = 0.0

    # ------------------------------------------------------------------ state

    @property
    def loaded(self) -> bool:
        """Whether the Engine is open."""
        return self.thread.loaded.is_set() and self.thread.fault is None

    @property
    def live(self) -> bool:
        """Whether it still works: false only for what a restart would cure."""
        pulse = self.thread.pulse
        stalled = pulse.working and time.monotonic() - pulse.beat > self.options.stall
        return not stalled and (self.thread.alive or self._loop is None or self.draining)

    @property
    def ready(self) -> bool:
        """Whether it takes jobs: loaded, not draining, and the queue answered a short while ago."""
        recent = time.monotonic() - self._reached < 2 * self.queue.options.lease
        return self.loaded and self.thread.alive and not self.draining and recent

    def drain(self) -> None:
        """Take nothing new, finish what is in hand, then end `run`."""
        self.draining = True
        self._changed.set()

    # -------------------------------------------------------------------- run

    async def run(self) -> None:
        """Work until drained. Raises the Engine's LaurError where it cannot be opened."""
        self._loop = asyncio.get_running_loop()
        self.thread.start()
        await asyncio.to_thread(self.thread.loaded.wait)
        if self.thread.fault is not None:
            raise self.thread.fault
        claiming = self._spawn(self._always(self._claim))
        for service in (self._publish, self._renew, self._sweep, self._expire):
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

    async def _finish_what_is_left(self) -> None:
        until = time.monotonic() + self.options.grace
        while len(self.hand) and (left := until - time.monotonic()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                break
        for held in self.hand:
            await self._give_back(held)

    async def _give_back(self, held: Held) -> None:
        await self._drop(held)
        try:
            async with asyncio.timeout(5.0):
                await self.queue.release(held.lease)
        except (TimeoutError, UnavailableError):  # its lease runs out by itself
            LOG.warning("job %s could not be handed back; its lease will end", held.lease.job.id)

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

    def _card(self) -> WorkerCard:
        own = pool_of(None)
        serves = frozenset({own, *(pool_of(name) for name in self.names.models())})
        held = [held.lease.job for held in self.hand]
        adapters = frozenset(name for job in held for name in job.adapters)
        holds = frozenset({own, *(pool_of(job.recipe.checkpoint) for job in held)})
        resident = adapters | {short_hash(name) for name in self.tally.adapters}
        return WorkerCard(
            name=self.options.name, serves=serves, size_class=self.options.largest, holds=holds, adapters=resident
        )

    async def _claim(self) -> None:
        while not self.draining:
            self._changed.clear()
            room = self.hand.room()
            if not room:
                await self._changed.wait()
                continue
            try:
                leases = await self.queue.claim(self._card(), room, block=self.options.block)
                self._reached = time.monotonic()
            except UnavailableError as error:
                LOG.warning("%s", error)
                await asyncio.sleep(1.0)
                continue
            for lease in leases:
                self._take(lease)

    async def _publish(self) -> None:
        while True:
            await self._unsent.wait()
            self._unsent.clear()
            batch, self._updates = self._updates, []
            mine = [(held, event) for held, event in batch if self._has(held)]
            try:
                lost = await self.queue.publish([(held.lease, event) for held, event in mine])
            except UnavailableError:  # progress that nobody hears is not worth keeping
                continue
            await self._lose(lost)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.queue.options.lease / 3)
            held = list(self.hand)
            try:
                await self._lose(await self.queue.renew([entry.lease for entry in held]))
                for entry in held:
                    if entry.leads and entry.file and self._has(entry):
                        await self.index.lead(entry.file, entry.lease.token, self.queue.options.lease)
                self._reached = time.monotonic()
            except UnavailableError as error:
                LOG.warning("%s", error)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.queue.options.lease * random.uniform(0.3, 0.6))
            try:
                await self.queue.sweep()
            except UnavailableError as error:
                LOG.warning("%s", error)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY * random.uniform(0.5, 1.5))
            try:
                await asyncio.to_thread(self.store.sweep)
            except OSError as error:
                LOG.warning("the store of results could not be swept: %s", error)

    # ------------------------------------------------------------ a job's way

    def _has(self, held: Held) -> bool:
        return self.hand.jobs.get(held.lease.job.id) is held

    def _take(self, lease: Lease) -> None:
        solo = lease.attempts >= self.options.solo_after
        held = Held(lease=lease, load=self.hand.load_of(lease.job), solo=solo)
        self.hand.jobs[lease.job.id] = held
        self._spawn(self._guarded(held, self._begin(held)))

    async def _begin(self, held: Held) -> None:
        while held.solo and not self.hand.alone(held):
            await asyncio.sleep(FOLLOW[0])
            if not self._has(held):
                return
        job = held.lease.job
        try:
            self.names.check(job.recipe)
            ours = await self.queue.start(held.lease)
            pictures = await self._pictures(job) if ours else ()
        except LaurError as error:
            await self._fail(held, Failure.of(error))
            return
        if not ours:
            await self._drop(held)
        elif self._has(held):
            self.thread.plan(job.id, job.recipe, previews=job.previews, pictures=pictures)

    async def _pictures(self, job: Job) -> tuple[InputPicture, ...]:
        """What a recipe begins from, read beside the thread that draws. Raises NotFoundError, OutputError."""
        refs = mentioned(job.recipe)
        if not refs:
            return ()
        return tuple([await asyncio.to_thread(self.inputs.load, job.tenant, ref) for ref in refs])

    async def _planned(self, held: Held, planned: Planned) -> None:
        """Draw, unless the file is there or on its way."""
        job = held.lease.job
        held.planned, held.file = planned, in_format(planned.key, job.format, metadata=job.metadata)
        pause, waited = FOLLOW[0], False
        while self._has(held):
            if await asyncio.to_thread(self.store.has, held.file):
                self.tally.collapsed += waited
                self.tally.hits += not waited
                await self._done(held, await asyncio.to_thread(self.store.get, held.file), cached=True)
                return
            if await self.index.lead(held.file, held.lease.token, self.queue.options.lease):
                held.leads, held.following = True, False
                self.tally.misses += 1
                self.thread.go(job.id)
                return
            held.following = waited = True
            self._changed.set()
            await asyncio.sleep(pause)
            pause = min(FOLLOW[1], 1.5 * pause)

    async def _stepped(self, held: Held, told: Stepped) -> None:
        job, progress = held.lease.job, told.progress
        if job.deadline is not None and time.time() > job.deadline:
            await self._lose(await self.queue.renew([held.lease]))  # the queue's clock decides
        self._say(held, events.Progress(job=job.id, step=progress.step, steps=progress.steps))
        if job.previews and progress.step < progress.steps:
            data = await asyncio.to_thread(previews.encode, progress, self.options.preview_side)
            if data is not None:
                preview = events.Preview(
                    job=job.id, step=progress.step, steps=progress.steps, media_type=previews.MEDIA_TYPE, data=data
                )
                self._say(held, preview)

    async def _drawn(self, held: Held, drawn: Drawn) -> None:
        job = held.lease.job
        content = await asyncio.to_thread(drawn.picture.encode, job.format, metadata=job.metadata)
        assert held.file
        await self._done(held, await asyncio.to_thread(self.store.put, held.file, content), cached=False)

    async def _done(self, held: Held, content: bytes, *, cached: bool) -> None:
        assert held.planned and held.file
        job, planned = held.lease.job, held.planned
        result = previews.describe(held.file, content, job, planned.recipe, planned.warnings, cached=cached)
        if (wish := wish_key(job)) is not None:
            await self._surely(lambda: self.index.put(wish, result))
        counts = await self._finish(held, result)
        self.tally.ended(State.DONE if counts else None, held.lease.job)
        await self._drop(held)

    async def _finish(self, held: Held, result: Result) -> bool:
        """Tell the queue, however long it takes: the picture is there."""
        while True:
            try:
                return await self.queue.finish(held.lease, result)
            except UnavailableError as error:
                LOG.warning("%s", error)

    async def _fail(self, held: Held, failure: Failure) -> None:
        await self._surely(lambda: self.queue.fail(held.lease, failure))
        self.tally.ended(State.FAILED, held.lease.job)
        await self._drop(held)

    async def _surely(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Once, and without an error where the queue stays away: leases then say what becomes of the job."""
        try:
            await action()
        except UnavailableError as error:
            LOG.warning("%s", error)

    async def _lose(self, leases: list[Lease]) -> None:
        for lease in leases:
            held = self.hand.jobs.get(lease.job.id)
            if held is not None and held.lease.token == lease.token:
                self.tally.lost += 1
                await self._drop(held)

    async def _drop(self, held: Held) -> None:
        if self._has(held):
            del self.hand.jobs[held.lease.job.id]
            self.thread.cancel(held.lease.job.id)
        self._changed.set()
        if held.leads and held.file:
            held.leads = False
            await self._surely(lambda: self.index.leave(held.file or "", held.lease.token))

    def _say(self, held: Held, event: events.JobEvent) -> None:
        if self._has(held):
            self._updates.append((held, event))
            self._unsent.set()

    # ------------------------------------------------------ from the thread

    def _arrived(self, told: list[Told]) -> None:
        """Called in the Engine's thread."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._sort, told)
        except RuntimeError:  # the loop has ended
            LOG.debug("%d messages came after the end", len(told))

    def _sort(self, told: list[Told]) -> None:
        for item in told:
            held = self.hand.jobs.get(item.id)
            if held is not None:
                self._spawn(self._guarded(held, self._handle(held, item)))

    async def _handle(self, held: Held, item: Told) -> None:
        if isinstance(item, Planned):
            await self._planned(held, item)
        elif isinstance(item, Stepped):
            await self._stepped(held, item)
        elif isinstance(item, Drawn):
            await self._drawn(held, item)
        elif isinstance(item, Broke):
            await self._fail(held, item.failure)

    async def _guarded(self, held: Held, work: Coroutine[Any, Any, None]) -> None:
        """A fault while a job is handled is that job's: it fails, to be tried again where that may help."""
        try:
            await work
        except Exception as error:
            if not isinstance(error, LaurError):
                LOG.exception("job %s met an unexpected fault", held.lease.job.id)
            if self._has(held):
                await self._fail(held, Failure.of(error))
