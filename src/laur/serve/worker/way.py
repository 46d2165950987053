"""A job's way through a worker: begun, planned, drawn, encoded, stored, told to the queue. Each job ends once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from laur.core.errors import LaurError, OutputError, UnavailableError
from laur.serve import events
from laur.serve.cache import Index, wish_key
from laur.serve.inputs import Inputs, mentioned
from laur.serve.job import Failure, Job, Result, State
from laur.serve.queue import Lease, Queue
from laur.serve.safety.base import REFUSED, Safety
from laur.serve.safety.blur import blurred as made_blurred
from laur.serve.store import Store
from laur.serve.worker import previews
from laur.serve.worker.held import Hand, Held
from laur.serve.worker.keys import in_format, judged
from laur.serve.worker.messages import Broke, Drawn, Planned, Stepped, Told
from laur.serve.worker.names import Names
from laur.serve.worker.options import WorkerOptions
from laur.serve.worker.storage import Storage
from laur.serve.worker.tally import Tally
from laur.serve.worker.thread import EngineThread

if TYPE_CHECKING:
    from laur.input.image import InputPicture

LOG = logging.getLogger(__name__)
FOLLOW = 0.05, 0.5
"""Seconds between looks at a file that another draws: at first, at last."""
TOLD = 5.0
"""Seconds at most between attempts to tell the queue of a picture."""


@dataclass(slots=True)
class Way:
    """What is done for the jobs in hand. Belongs to one event loop."""

    queue: Queue
    store: Store
    index: Index
    names: Names
    inputs: Inputs
    thread: EngineThread
    hand: Hand
    tally: Tally
    options: WorkerOptions
    safety: Safety | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be room for more."""
    updates: list[tuple[Held, events.JobEvent]] = field(default_factory=list[tuple[Held, events.JobEvent]])
    """To be published."""
    unsent: asyncio.Event = field(default_factory=asyncio.Event)
    storage: Storage = field(init=False)

    def __post_init__(self) -> None:
        self.storage = Storage(self.store)

    def has(self, held: Held) -> bool:
        """Whether the job is still in hand."""
        return self.hand.jobs.get(held.lease.job.id) is held

    async def handle(self, held: Held, item: Told) -> None:
        """What the Engine's thread told of a job."""
        if isinstance(item, Planned):
            await self._planned(held, item)
        elif isinstance(item, Stepped):
            await self._stepped(held, item)
        elif isinstance(item, Drawn):
            await self._drawn(held, item)
        elif isinstance(item, Broke):
            await self._fail(held, item.failure)

    async def guarded(self, held: Held, work: Coroutine[Any, Any, None]) -> None:
        """A fault while a job is handled is that job's: it fails, to be tried again where that may help."""
        with held.journey.about():
            try:
                await work
            except Exception as error:
                if not isinstance(error, LaurError):
                    LOG.exception("a job met an unexpected fault")
                if self.has(held):
                    await self._broke(held, error)

    async def begin(self, held: Held) -> None:
        """Plan a job that was just taken."""
        while held.solo and not self.hand.alone(held):
            await asyncio.sleep(FOLLOW[0])
            if not self.has(held):
                return
        job = held.lease.job
        try:
            self.names.check(job.recipe)
            ours = await self.queue.start(held.lease)
            pictures = await self._pictures(job) if ours else ()
        except LaurError as error:
            await self._broke(held, error)
            return
        if not ours:
            await self.drop(held, "lost")
        elif self.has(held):
            self.thread.plan(job.id, job.recipe, previews=job.previews, pictures=pictures, owner=job.tenant)

    async def _pictures(self, job: Job) -> tuple[InputPicture, ...]:
        """What a recipe begins from, read beside the thread that draws. Raises NotFoundError, OutputError."""
        refs = mentioned(job.recipe)
        if not refs:
            return ()
        return tuple([await asyncio.to_thread(self.inputs.load, job.tenant, ref) for ref in refs])

    async def _planned(self, held: Held, planned: Planned) -> None:
        """Draw, unless the file is there or on its way."""
        job = held.lease.job
        held.journey.note("plan", planned.began, planned.ended)
        held.planned, held.file = planned, in_format(planned.key, job.format, metadata=job.metadata)
        if self.safety is not None and await self._is_refused(held, self.safety):
            return
        pause, waited = FOLLOW[0], False
        while self.has(held):
            if (there := await asyncio.to_thread(self._find, held)) is not None:
                self.tally.collapsed += waited
                self.tally.hits += not waited
                content = await asyncio.to_thread(self.store.get, there)
                why = "an earlier drawing of it was judged so" if there == held.blurred else None
                await self._done(held, there, content, cached=True, blurred=why)
                return
            if await self.index.lead(held.file, held.lease.token, self.queue.options.lease):
                held.leads, held.following = True, False
                self.tally.misses += 1
                self.thread.go(job.id)
                return
            held.following = waited = True
            self.changed.set()
            await asyncio.sleep(pause)
            pause = min(FOLLOW[1], 1.5 * pause)

    def _find(self, held: Held) -> str | None:
        """Its file, if it was drawn before."""
        return next((name for name in (held.file, held.blurred) if name and self.store.has(name)), None)

    async def _is_refused(self, held: Held, safety: Safety) -> bool:
        """Judge the prompt, and name the files by who judges."""
        assert held.planned and held.file
        held.file, held.blurred = (judged(held.file, safety.name, blurred=blurred) for blurred in (False, True))
        reason = await asyncio.to_thread(safety.prompt, held.planned.recipe.prompt)
        if reason is not None:
            text = f"the prompt is not drawn here: {' '.join(reason.split())[:300]}"
            await self._fail(held, Failure(kind=REFUSED, message=text, status=400))
        return reason is not None

    async def _stepped(self, held: Held, told: Stepped) -> None:
        job, progress = held.lease.job, told.progress
        if job.deadline is not None and time.time() > job.deadline:
            await self.lose(await self.queue.renew([held.lease]))  # the queue's clock decides
        self._say(held, events.Progress(job=job.id, step=progress.step, steps=progress.steps))
        if job.previews and self.safety is None and progress.step < progress.steps:  # nothing is shown unjudged
            data = await asyncio.to_thread(previews.encode, progress, self.options.preview_side)
            if data is not None:
                preview = events.Preview(
                    job=job.id, step=progress.step, steps=progress.steps, media_type=previews.MEDIA_TYPE, data=data
                )
                self._say(held, preview)

    async def _drawn(self, held: Held, drawn: Drawn) -> None:
        job = held.lease.job
        held.journey.denoised()
        if drawn.began is not None:
            held.journey.note("decode", drawn.began, drawn.ended)
        picture, file, why = drawn.picture, held.file, None
        if self.safety is not None:
            with held.journey.stage("judge"):
                why = await asyncio.to_thread(self.safety.picture, picture.pixels)
            if why is not None:
                picture, file = await asyncio.to_thread(made_blurred, picture), held.blurred
        with held.journey.stage("encode"):
            content = await asyncio.to_thread(picture.encode, job.format, metadata=job.metadata)
        assert file
        with held.journey.stage("store"):
            content = await asyncio.to_thread(self.store.put, file, content)
        await self._done(held, file, content, cached=False, notes=drawn.notes, blurred=why)

    async def _done(
        self,
        held: Held,
        file: str,
        content: bytes,
        *,
        cached: bool,
        notes: tuple[str, ...] = (),
        blurred: str | None = None,
    ) -> None:
        assert held.planned
        job, planned = held.lease.job, held.planned
        warnings = (*planned.warnings, *notes)
        if blurred is not None:
            blurred = " ".join(blurred.split())[:300]
            warnings = (*warnings, f"the picture is blurred: {blurred}")
        recipe = planned.recipe
        result = previews.describe(file, content, job, recipe, warnings, cached=cached, blurred=blurred)
        if (wish := wish_key(job)) is not None:
            await self._surely(lambda: self.index.put(wish, result))
        counts = await self._finish(held, result)
        self.tally.ended(State.DONE if counts else None)
        if counts:
            self.tally.whole.observe(held.journey.age)
        await self.drop(held, "done")

    async def _finish(self, held: Held, result: Result) -> bool:
        """Tell the queue, however long it takes: the picture is there."""
        pause = FOLLOW[0]
        while True:
            try:
                return await self.queue.finish(held.lease, result)
            except UnavailableError as error:
                LOG.warning("%s", error)
            await asyncio.sleep(pause)  # a Redis that is there but refuses answers at once
            pause = min(TOLD, 2 * pause)

    async def _broke(self, held: Held, error: Exception) -> None:
        """Trouble of the queue or of the store is no attempt of the job's: it goes back. Anything else is its own."""
        if isinstance(error, UnavailableError) or (isinstance(error, OutputError) and await self.storage.down()):
            LOG.warning("%s", error)
            await self.drop(held, "handed back")
            await self._surely(lambda: self.queue.release(held.lease))
        elif self.has(held):
            await self._fail(held, Failure.of(error))

    async def _fail(self, held: Held, failure: Failure) -> None:
        await self._surely(lambda: self.queue.fail(held.lease, failure))
        if not failure.retry or held.lease.attempts + 1 >= self.queue.options.max_attempts:  # else it is tried again
            self.tally.ended(State.FAILED)
        LOG.info("failed: %s", failure.message, extra={"kind": failure.kind, "retry": failure.retry})
        await self.drop(held, "failed")

    async def _surely(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Once, and without an error whatever the queue does: leases then say what becomes of the job."""
        try:
            await action()
        except UnavailableError as error:
            LOG.warning("%s", error)
        except Exception:  # the job is let go of here all the same
            LOG.exception("the queue met an unexpected fault")

    async def lose(self, leases: list[Lease]) -> None:
        """Drop what the queue says is not ours any more: cancelled, late, or taken for dead."""
        for lease in leases:
            held = self.hand.jobs.get(lease.job.id)
            if held is not None and held.lease.token == lease.token:
                self.tally.lost += 1
                await self.drop(held, "lost")

    async def drop(self, held: Held, outcome: str) -> None:
        """Forget a job: done, failed, lost or handed back."""
        if self.has(held):
            with held.journey.about():
                LOG.info("%s after %.2f s", outcome, held.journey.held, extra={"outcome": outcome})
            held.journey.span.end(outcome)
            del self.hand.jobs[held.lease.job.id]
            self.thread.cancel(held.lease.job.id)
        self.changed.set()
        if held.leads and held.file:
            held.leads = False
            await self._surely(lambda: self.index.leave(held.file or "", held.lease.token))

    def _say(self, held: Held, event: events.JobEvent) -> None:
        if self.has(held):
            self.updates.append((held, event))
            self.unsent.set()
