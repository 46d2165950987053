"""`laur batch`: every recipe of a file, once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laur.cli.console import complain, console, say, stderr_is_terminal
from laur.cli.options import AsJson, Device, Dtype
from laur.core.recipe import DEFAULT_CHECKPOINT

if TYPE_CHECKING:
    from laur.serve.batch.local import Tally

EXAMPLES = """[bold]Examples[/]

laur batch recipes.jsonl --out pictures

laur batch recipes.jsonl --out pictures --format webp --ray auto

A line: {"prompt": "a red fox", "seed": 7, "steps": 4, "name": "fox"}"""
QUIET_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


def batch(
    *,
    recipes: Annotated[Path, typer.Argument(metavar="RECIPES", help="A file with one recipe a line, as JSON.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Where the pictures go.")],
    model: Annotated[
        str, typer.Option("-m", "--model", metavar="NAME", help="Of recipes that name none.")
    ] = DEFAULT_CHECKPOINT,
    format: Annotated[str | None, typer.Option(metavar="NAME", help="png, jpeg, webp, avif or tiff.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Draw on a Ray cluster: HOST:PORT, or auto for the one this machine is in."
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Draw every recipe of a file, each once.

    The same command goes on after any interruption: a picture that is there is not drawn again. A recipe that cannot be
    drawn is written to failures.jsonl with the reason, the others go on, and the exit code is 1.
    """
    from laur.serve.batch.folder import FAILURES, Folder
    from laur.serve.batch.local import Tally
    from laur.serve.batch.wishes import Wishes

    wishes = Wishes(recipes)
    tally = Tally(len(wishes))
    with Folder(out, format) as folder, _shown(tally) as report:
        if ray is not None:
            from laur.serve.batch import on_ray

            options = on_ray.EngineOptions(model, folder.renderer.name, device, dtype)
            on_ray.run(ray, options, iter(wishes), folder, tally, report=report)
        else:
            from laur.pipeline.engine import Engine
            from laur.serve.batch import local

            local.run(Engine(model, device=device, dtype=dtype), iter(wishes), folder, tally, report)
    if as_json:
        values = {"total": tally.total, "there": tally.there, "drawn": tally.drawn, "failed": tally.failed}
        typer.echo(json.dumps({**values, "path": str(out)}))
    else:
        say(f"{tally.drawn} drawn, {tally.there} there before, {tally.failed} failed")
        typer.echo(str(out))
    if tally.failed:
        complain(f"{tally.failed} of {tally.total} recipes failed; {out / FAILURES} says why")
        raise typer.Exit(1)


@contextmanager
def _shown(tally: Tally) -> Generator[Callable[[Tally], None]]:
    """A progress bar on a terminal, a line now and then elsewhere."""
    if not stderr_is_terminal():
        last = time.monotonic()

        def line(now: Tally) -> None:
            nonlocal last
            if time.monotonic() - last > QUIET_EVERY:
                last = time.monotonic()
                say(f"{now.done} of {now.total}")

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console(err=True), transient=True
    ) as bar:
        task = bar.add_task("", total=tally.total)
        yield lambda now: bar.update(task, completed=now.done)
