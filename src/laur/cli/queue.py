"""`laur queue`: jobs that were given up, and another chance for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from laur.cli.console import one_line, say
from laur.cli.options import FLAG
from laur.core.errors import NotFoundError, RecipeError

if TYPE_CHECKING:
    from laur.serve.job import Record
    from laur.serve.queue import Queue

T = TypeVar("T")
ALL = 100_000
"""Jobs that `--all` means at most."""
queue_app = typer.Typer(no_args_is_help=True, help="Jobs in Redis that were given up (parked).")
EXAMPLES = """[bold]Examples[/]

laur queue parked --redis redis://queue:6379/0

laur queue revive --redis redis://queue:6379/0 --all"""
Redis = Annotated[str, typer.Option(envvar="LAUR_REDIS", metavar="URL", help="Where the jobs are.")]
Namespace = Annotated[str, typer.Option(metavar="NAME", help="Prefix of keys in Redis.")]


@queue_app.command(epilog=EXAMPLES)
def parked(
    *,
    redis: Redis,
    namespace: Namespace = "laur",
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Lines at most.")] = 100,
) -> None:
    """List parked jobs, the latest first: id, tenant, when, why."""
    found = asyncio.run(_with(redis, namespace, lambda queue: queue.parked(count)))
    for record in found:
        typer.echo(_line(record))
    if not found:
        say("no job is parked")


@queue_app.command(epilog=EXAMPLES)
def revive(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `laur queue parked` shows.")] = None,
    *,
    redis: Redis,
    namespace: Namespace = "laur",
    everything: Annotated[bool, typer.Option("--all", metavar=FLAG, help="All that are parked.")] = False,
) -> None:
    """Queue parked jobs again, their attempts forgotten; a deadline that has passed is too."""
    if bool(ids) == everything:
        raise RecipeError("name the jobs to revive, or write --all")
    done = asyncio.run(_with(redis, namespace, lambda queue: _revive(queue, ids)))
    say(f"{done} {'job waits' if done == 1 else 'jobs wait'} again")


async def _revive(queue: Queue, ids: list[str] | None) -> int:
    if ids is not None:
        for number in ids:
            await queue.revive(number)
        return len(ids)
    done = 0
    for record in await queue.parked(ALL):
        try:
            await queue.revive(record.job.id)
            done += 1
        except NotFoundError:  # expired, or somebody else was quicker
            continue
    return done


async def _with(redis: str, namespace: str, ask: Callable[[Queue], Awaitable[T]]) -> T:
    """Ask a queue. Errors: MissingDependencyError, NotFoundError, UnavailableError."""
    from laur.serve.queue import QueueOptions, open_queue

    queue = open_queue(redis, QueueOptions(namespace=namespace, outage=5.0))
    try:
        return await ask(queue)
    finally:
        await queue.close()


def _line(record: Record) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.finished or 0.0))
    why = one_line(record.failure.message) if record.failure else ""
    return f"{record.job.id}\t{record.job.tenant}\t{when}\t{why}"
