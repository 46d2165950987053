"""Short ways to jobs, results and workers."""

from typing import Any

from laur.core.recipe import Recipe
from laur.serve.job import Job, Result, pool_of, short_hash
from laur.serve.queue import Queue, WorkerCard

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


__all__ = ["CARD", "card", "job", "pool_of", "result", "short_hash", "take"]
