"""`laur bench`: how fast this machine draws."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from laur.cli.console import console, say
from laur.cli.display import display
from laur.cli.options import AsJson, Device, Dtype, between, parse_size, whole

if TYPE_CHECKING:
    from laur.cli.timing import Timings


def bench(
    *,
    context: typer.Context,
    model: Annotated[str, typer.Option("-m", "--model", metavar="NAME", help="mini, a folder, a file.")] = "mini",
    steps: Annotated[int | None, typer.Option(parser=whole, metavar="N", help="Steps of a picture.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels.")] = None,
    batch: Annotated[int, typer.Option(parser=between(1, 64), metavar="N", help="Pictures drawn together.")] = 8,
    repeats: Annotated[
        int, typer.Option(parser=between(1, 100), metavar="N", help="Counted runs; medians are shown.")
    ] = 7,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure this machine for about half a minute: the parts of a cold start, a step, a decode, pictures a second.

    Figures to compare with other programs come from benchmarks/ in the source tree, which runs them side by side.
    """
    from laur.core.recipe import Recipe

    begun = context.obj if isinstance(context.obj, float) else time.perf_counter()
    width, height = parse_size(size) if size is not None else (None, None)
    recipe = Recipe(prompt="a red apple, fluent 3d", seed=7, steps=steps, checkpoint=model, width=width, height=height)
    from laur.cli.timing import measure

    with display(paths=False) as screen:
        screen.busy("measuring")
        timings = measure(recipe, batch=batch, repeats=repeats, device=device, dtype=dtype, begun=begun)
    if as_json:
        typer.echo(json.dumps(timings.to_json()))
    else:
        _show(timings)


def _show(timings: Timings) -> None:
    from rich.table import Table

    say(f"{timings.what}; medians of {timings.repeats}")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, seconds in timings.cold.items():
        table.add_row(name, f"{seconds:.2f} s")
    table.add_row("[bold]cold start to first picture[/]", f"[bold]{timings.first_picture:.2f} s[/]")
    table.add_section()
    table.add_row("one step", f"{timings.step * 1000:.1f} ms")
    table.add_row("decode", f"{timings.decode * 1000:.1f} ms")
    table.add_row("one picture", f"{timings.one * 1000:.0f} ms, {1 / timings.one:.2f} a second")
    many = timings.many / timings.batch
    table.add_row(f"{timings.batch} together", f"{many * 1000:.0f} ms each, {1 / many:.2f} a second")
    if timings.peak_bytes is not None:
        table.add_row("peak memory", f"{timings.peak_bytes / 2**30:.2f} GiB")
    console().print(table)
