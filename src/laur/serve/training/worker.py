"""Sees trainings through, one after the other: leases renewed, progress told, states kept for whoever goes on.

A training that is stopped (its worker drains, its lease is lost) has saved its state in `folder`/ID; the next worker
that takes it and sees the same folder goes on from there, to the same weights. One that is cancelled is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from laur.core.errors import LaurError, OutputError, RecipeError, UnavailableError
from laur.serve import events
from laur.serve.job import TRAINING, Failure, Result, State
from laur.serve.queue import Lease, Queue, WorkerCard
from laur.serve.store import Store
from laur.serve.training.wish import Wish, weights_key
from laur.serve.worker.options import WorkerOptions
from laur.serve.worker.storage import Storage

LOG = logging.getLogger(__name__)
TELL = 1.0
"""Seconds between looks at a training that runs."""
PAUSE = 1.0
"""Seconds before the queue is asked again after it failed."""


class Train(Protocol):
    """What trains. Called in a thread of its own."""

    def __call__(
        self, wish: Wish, archive: bytes, folder: Path, tell: Callable[[int, int], None], stop: Callable[[], bool]
    ) -> Path | None:
        """The adapter's file in `folder`, or None where `stop` ended it before; called again it goes on.

        `tell` hears the update and how many there are. Errors: LaurError.
        """
        ...


class TrainingWorker:
    """One training at a time. Belongs to one event loop; `run` once."""

    def __init__(self, queue: Queue, store: Store, train: Train, folder: Path, adapters: Path) -> None:
        """`folder` is where trainings are at work, `adapters` where results get their names."""
        self._queue, self._store, self._train = queue, store, train
        self._folder, self._adapters = folder, adapters
        self._card = WorkerCard(name=f"{WorkerOptions().name}-train", serves=frozenset({TRAINING}))
        self._stop = threading.Event()
        self._storage = Storage(store)
        self.draining = False

    def drain(self) -> None:
        """Save what is being trained, hand it back, end `run`."""
        self.draining = True
        self._stop.set()

    async def run(self) -> None:
        """Work until drained."""
        watching = asyncio.create_task(self._storage.watch())
        try:
            await self._work()
        finally:
            watching.cancel()

    async def _work(self) -> None:
        while not self.draining:
            if self._storage.trouble is not None:  # what is trained could not be kept
                await asyncio.sleep(0.1)
                continue
            try:
                for lease in await self._queue.claim(self._card, 1, block=1.0):
                    await self._guarded(lease)
            except UnavailableError as error:
                LOG.warning("%s", error)
                await asyncio.sleep(PAUSE)
            except Exception:  # nobody would start it again
                LOG.exception("what sees trainings through met an unexpected fault and begins anew")
                await asyncio.sleep(PAUSE)

    async def _guarded(self, lease: Lease) -> None:
        try:
            await self._see_through(lease)
        except UnavailableError as error:  # the lease ends by itself, and what was saved is there for the next
            LOG.warning("%s", error)
        except Exception as error:
            if not isinstance(error, LaurError):
                LOG.exception("a training met an unexpected fault")
            with contextlib.suppress(UnavailableError):
                if isinstance(error, OutputError) and await self._storage.down():
                    LOG.warning("%s", error)
                    await self._queue.release(lease)
                else:
                    await self._queue.fail(lease, Failure.of(error))

    async def _see_through(self, lease: Lease) -> None:
        if not await self._queue.start(lease):
            return
        wish, folder = Wish.from_dict(lease.job.note["training"]), self._folder / lease.job.id
        archive = await asyncio.to_thread(self._store.get, wish.archive)
        self._stop = threading.Event()
        if self.draining:
            self._stop.set()
        at = [0, wish.updates]

        def tell(update: int, updates: int) -> None:
            at[:] = update, updates

        going = asyncio.create_task(asyncio.to_thread(self._train, wish, archive, folder, tell, self._stop.is_set))
        try:
            held = await self._watch(lease, going, at)
            file = await going
        except asyncio.CancelledError:
            self._stop.set()
            raise
        if not held:
            await self._left(lease, folder)
        elif file is None:
            await self._queue.release(lease)
        else:
            await self._finish(lease, wish, file, folder)

    async def _watch(self, lease: Lease, going: asyncio.Task[Path | None], at: list[int]) -> bool:
        """Keep the lease and tell of progress until the training ends; False where the lease was lost."""
        told, every = -1, min(TELL, self._queue.options.lease / 3)
        while True:
            await asyncio.wait({going}, timeout=every)
            if going.done():
                return True
            step, steps = at
            event = events.Progress(job=lease.job.id, step=step, steps=steps)
            with contextlib.suppress(UnavailableError):
                lost = await self._queue.renew([lease])
                if step != told and not lost:
                    told, lost = step, await self._queue.publish([(lease, event)])
                if lost:
                    self._stop.set()
                    return False

    async def _left(self, lease: Lease, folder: Path) -> None:
        """What was cancelled or came too late is removed; what another has taken is not."""
        record = await self._queue.get(lease.job.id)
        if record.state is not State.QUEUED and record.state is not State.RUNNING:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _finish(self, lease: Lease, wish: Wish, file: Path, folder: Path) -> None:
        content = await asyncio.to_thread(file.read_bytes)
        key = weights_key(content)
        await asyncio.to_thread(self._store.put, key, content)
        await asyncio.to_thread(self._name, wish.name, content)
        digest = key.partition(".")[0]
        result = Result(
            key=key, media_type="application/octet-stream", size=len(content), sha256=digest, width=0, height=0,
            recipe=lease.job.recipe,
        )  # fmt: skip
        whole = events.Progress(job=lease.job.id, step=wish.updates, steps=wish.updates)
        await self._queue.publish([(lease, whole)])
        await self._queue.finish(lease, result)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _name(self, name: str, content: bytes) -> None:
        """Make the adapter known. Raises RecipeError where another has the name, OutputError."""
        from laur.utils.files import atomic_write

        path = self._adapters / f"{name}.safetensors"
        try:
            if path.exists() and path.read_bytes() != content:
                raise RecipeError(f"an adapter {name} came to be while this was trained; train under another name")
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, content)
        except OSError as error:
            raise OutputError(f"the adapter cannot be written: {error.strerror}") from None
