"""What all HTTP APIs stand on: limits, cached results, several pictures as one wish, waiting for them."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from laur.core.errors import LaurError, NotFoundError, RecipeError, ResourceError
from laur.core.recipe import Recipe
from laur.input.fit import other_side
from laur.render import registry
from laur.serve.access.allowance import Allowance
from laur.serve.access.keys import Key
from laur.serve.access.links import Links
from laur.serve.access.own import OwnJobs
from laur.serve.cache import Index, wish_key
from laur.serve.fetching import Fetcher
from laur.serve.inputs import PIXELS, Inputs, checked_deadline, mentioned
from laur.serve.job import Job, Record, Result, State
from laur.serve.observe.logs import subject
from laur.serve.observe.objective import Objective
from laur.serve.observe.trace import OFF, Tracing
from laur.serve.queue import Queue
from laur.serve.store import Store
from laur.serve.worker.names import Names

Gone = Callable[[], Awaitable[bool]]
"""Whether the client that waits has gone away."""
DECODED = 2
"""Pictures that are unpacked at a time; a large one takes some 200 MB."""
STEP = 8
"""Of sides that are chosen for a picture."""
LOOK = 1.0
"""Seconds between looks at that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may ask for."""

    pixels: int = 2048 * 2048
    """Of one picture."""
    steps: int = 150
    count: int = 16
    """Pictures of one request."""
    input_pixels: int = PIXELS
    """Of a picture that a client sends."""
    body: int = 20 * 2**20
    """Bytes of a request."""
    deadline: float = 3600.0
    """Seconds after which a job that names no deadline is given up."""
    wait: float = 600.0
    """Seconds that a request waits for its pictures before the answer is 504."""


@dataclass(slots=True)
class Service:
    """One API process's view of queue, store and index."""

    queue: Queue
    store: Store
    index: Index
    names: Names
    limits: Limits = field(default_factory=Limits)
    counts: Counter[str] = field(default_factory=Counter[str])
    """Cache hits and misses at submission."""
    tracing: Tracing = OFF
    objective: Objective = field(default_factory=Objective)
    fetcher: Fetcher = field(default_factory=Fetcher)
    """Of pictures by address."""
    spend: Callable[[int, int], Awaitable[None]] | None = None
    """Takes pictures and pixels from what the one who asks may draw. Raises LimitError."""
    links: Links | None = None
    """Signs the addresses of results, where they are not open to all."""
    inputs: Inputs = field(init=False)
    """Pictures that clients sent."""
    decoding: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(DECODED))
    """Bounds how many pictures are unpacked at a time."""

    def __post_init__(self) -> None:
        self.inputs = Inputs(self.store, pixels=self.limits.input_pixels)

    def of(self, key: Key, allowance: Allowance) -> Service:
        """The same for the holder of a key: the jobs of its tenant, and what it may draw."""
        view = copy.copy(self)
        view.queue = cast("Queue", OwnJobs(self.queue, key.tenant))
        view.spend = partial(allowance.spend, key)
        return view

    def link(self, url: str) -> str:
        """The address of a result, as it is given to a client."""
        return url if self.links is None else self.links.signed(url)

    async def submit(self, job: Job) -> Record:
        """Queue a job, or answer it at once where its result is known.

        Errors: RecipeError, ResourceError, NotFoundError (a model, an adapter, a format, a picture), BusyError,
        UnavailableError, OutputError, LimitError.
        """
        job = await self._with_pictures(job)
        self.check(job.recipe)
        self.names.check(job.recipe)
        registry.get(job.format)
        with self.tracing.sending(job) as carried:
            return await self._queue(dataclasses.replace(job, trace=carried, request=subject("request_id")))

    async def _queue(self, job: Job) -> Record:
        if (result := await self._known(job)) is not None:
            self.counts["hit"] += 1
            return await self.queue.remember(job, dataclasses.replace(result, cached=True))
        self.counts["miss"] += 1
        if self.spend is None:
            return await self.queue.submit(job)
        await self.spend(1, job.pixels)
        try:
            record = await self.queue.submit(job)
        except LaurError:
            await self.spend(-1, -job.pixels)
            raise
        if record.job is not job:  # known already: nothing more is drawn for it
            await self.spend(-1, -job.pixels)
        return record

    async def submit_all(self, jobs: Sequence[Job]) -> list[Record]:
        """All of them or none."""
        if len(jobs) > self.limits.count:
            raise RecipeError(f"{len(jobs)} pictures are asked for; this server draws at most {self.limits.count}")
        records: list[Record] = []
        for job in jobs:
            try:
                records.append(await self.submit(job))
            except LaurError:
                for record in await self.cancel([record.job.id for record in records]):
                    if record.state is State.CANCELLED and self.spend is not None:
                        await self.spend(-1, -record.job.pixels)
                raise
        return records

    def check(self, recipe: Recipe) -> None:
        """Raise RecipeError or ResourceError where a recipe is beyond this server's limits."""
        self.check_size(recipe.width or 0, recipe.height or 0)
        if (recipe.steps or 0) > self.limits.steps:
            raise RecipeError(f"steps is {recipe.steps}; this server draws at most {self.limits.steps}")

    def check_size(self, width: int, height: int) -> None:
        """Raise ResourceError where a picture of that size, 0 being open, is beyond this server's limits."""
        if max(width * height, max(width, height) * 16) > self.limits.pixels:
            raise ResourceError(
                f"a picture of {width or None}x{height or None} has more than this server's "
                f"{self.limits.pixels:,} pixels"
            )

    async def cancel(self, ids: Sequence[str]) -> list[Record]:
        """Cancel what is not final."""
        return [await self.queue.cancel(number) for number in ids]

    async def finish(self, ids: Sequence[str], gone: Gone | None = None) -> list[Record]:
        """Wait for jobs to be final, or for `limits.wait` seconds; a client that goes away takes its jobs along."""
        waiting = asyncio.gather(*(self.queue.wait(number, self.limits.wait) for number in ids))
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=LOOK)
                if not waiting.done() and gone is not None and await gone():
                    await self.cancel(ids)
            return await waiting
        finally:
            waiting.cancel()

    async def content(self, result: Result) -> bytes:
        """The file of a result. Raises NotFoundError once it has expired."""
        return await asyncio.to_thread(self.store.get, result.key)

    async def _with_pictures(self, job: Job) -> Job:
        """With a deadline, as nothing waits for ever for a worker that may never come; its pictures stay until then."""
        refs = mentioned(job.recipe)
        deadline = checked_deadline(self.inputs, refs, job.deadline, self.limits.deadline)
        if refs:
            await asyncio.to_thread(self.inputs.hold, job.tenant, refs)
        recipe = job.recipe
        if recipe.image is not None and (recipe.width is None) != (recipe.height is None):
            picture = await asyncio.to_thread(self.inputs.load, job.tenant, recipe.image)
            width, height = other_side(picture.size, recipe.width, recipe.height, STEP)
            recipe = recipe.replace(width=width, height=height)
        return dataclasses.replace(job, deadline=deadline, recipe=recipe)

    async def _known(self, job: Job) -> Result | None:
        key = wish_key(job)
        result = await self.index.get(key) if key is not None else None
        if result is None or not await asyncio.to_thread(self.store.has, result.key):
            return None
        try:  # a file outlives its records by as much as it is younger than half its time
            young = await asyncio.to_thread(self.store.age, result.key) < self.store.keep / 2
        except NotFoundError:
            return None
        return result if young else None
