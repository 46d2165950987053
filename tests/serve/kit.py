"""Short ways to jobs, results and workers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from laur.core.recipe import Recipe
from laur.serve.cache import Index, open_index
from laur.serve.job import Job, Result, pool_of, short_hash
from laur.serve.queue import Queue, WorkerCard
from laur.serve.store import Store
from laur.serve.worker.names import Names
from laur.serve.worker.options import WorkerOptions
from laur.serve.worker.worker import Worker

CARD = WorkerCard(name="w1")


def job(prompt: str = "a fox", *, recipe: dict[str, Any] | None = None, **fields: Any) -> Job:
    return Job(recipe=Recipe(prompt=prompt, **(recipe or {})), **fields)


def result(name: str = "a") -> Result:
    return Result(
        key=f"{short_hash(name) * 6}"[:64] + ".png",
        media_type="image/png",
        size=3,
        sha256="0" * 64,
        width=64,
        height=64,
        recipe=Recipe(prompt="a fox", seed=1),
    )


def card(name: str = "w1", **fields: Any) -> WorkerCard:
    return WorkerCard(name=name, **fields)


async def take(queue: Queue, count: int = 1, **fields: Any) -> list[str]:
    """Prompts of the jobs that a worker gets, one after another."""
    taken: list[str] = []
    for _ in range(count):
        taken += [lease.job.recipe.prompt for lease in await queue.claim(card(**fields), 1)]
    return taken


W = TypeVar("W", bound="Runs")


class Runs(Protocol):
    """A worker, of pictures or of trainings, or a crew."""

    async def run(self) -> Any: ...
    def drain(self) -> None: ...


def hire(
    queue: Queue,
    store: Store,
    make: Callable[[], Any],
    index: Index | None = None,
    *,
    names: Names | None = None,
    cap: int = 4,
    **options: Any,
) -> Worker:
    """A worker whose engine `make` gives; calls of `cap` rows."""
    given = WorkerOptions(**{"grace": 10.0, "block": 0.1, **options})
    index = index or open_index(queue, 60.0)
    return Worker(queue, store, index, make, names=names or Names(), cap=lambda pixels: cap, options=given)


@contextlib.asynccontextmanager
async def at_work(worker: W, *engines: Any) -> AsyncIterator[W]:
    """It runs within the block, and is drained at its end; the gates of fake `engines` are opened for that."""
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        for engine in engines:
            engine.gate.set()
        worker.drain()
        await running


def working(
    queue: Queue, store: Store, engine: Any, index: Index | None = None, **options: Any
) -> AbstractAsyncContextManager[Worker]:
    """A worker at work with a fake engine."""
    return at_work(hire(queue, store, lambda: engine, index, **options), engine)


__all__ = ["CARD", "at_work", "card", "hire", "job", "pool_of", "result", "short_hash", "take", "working"]
