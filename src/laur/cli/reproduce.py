"""`laur reproduce`: a picture made again from its own file, and compared with it."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laur.cli.console import one_line, say, warn
from laur.cli.display import display
from laur.cli.generate_options import Variant
from laur.cli.inputs import read_inputs
from laur.cli.options import FLAG, AsJson, Device, Dtype

if TYPE_CHECKING:
    from laur.cli.remaking import Remaking
    from laur.render.compare import Verdict

EXAMPLES = """[bold]Examples[/]

laur reproduce apple.png

laur reproduce apple.png --out again.png --dtype float32

laur reproduce downloaded.png --model ./model.safetensors --adapter ./lora.safetensors"""


def reproduce(
    *,
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A picture that says how it was made.", show_default=False)
    ],
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="PATH", help="Also save the picture drawn again.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("-m", "--model", metavar="NAME", help="Where its model is on this machine.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("-a", "--adapter", metavar="FILE", help="Where one of its adapters is; repeatable."),
    ] = None,
    variant: Variant = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the picture is that it began from.")] = None,
    mask: Annotated[Path | None, typer.Option(metavar="FILE", help="Where that picture's mask is.")] = None,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway", metavar=FLAG, help="Draw even if a model, adapter or picture here has another content."
        ),
    ] = False,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Make a picture again from its file alone and compare the pixels.

    Says: identical, or how close (PSNR in dB), or different, which exits with 1; or exactly what is missing, which
    exits with 2. Device and precision are those that the file records, where this machine has them.

    Pictures of A1111 and its kin are read as far as their parameters go; what is assumed is said.
    """
    from laur.cli.remaking import remake
    from laur.render.compare import judge
    from laur.render.metadata import read
    from laur.render.output import Destination

    begun = context.obj if isinstance(context.obj, float) else time.perf_counter()
    destination = Destination.parse(out) if out is not None else None
    if destination is not None:
        destination.check()
    found = read(file)
    pictures = read_inputs(image, mask)
    with display(paths=False) as screen:
        screen.busy("drawing it again")
        made = remake(
            found,
            model=model,
            adapters=adapter or [],
            pictures=pictures,
            variant=variant,
            device=device,
            dtype=dtype,
            anyway=anyway,
        )
    path = destination.save(made.picture) if destination is not None else None
    verdict = judge(found, made.picture.pixels)
    for note in made.notes:
        warn(note)
    if as_json:
        typer.echo(json.dumps(_as_json(file, path, verdict, made, time.perf_counter() - begun)))
    else:
        typer.echo(verdict.line)
        if path is not None:
            say(f"drawn again: {path}")
    if verdict.exit_code:
        raise typer.Exit(verdict.exit_code)


def _as_json(file: Path, path: Path | None, verdict: Verdict, made: Remaking, seconds: float) -> dict[str, Any]:
    return {
        "file": os.fspath(file),
        "likeness": str(verdict.likeness),
        "psnr": verdict.psnr if math.isfinite(verdict.psnr) else None,
        "path": None if path is None else os.fspath(path),
        "recipe_hash": made.picture.recipe.hash,
        "warnings": [one_line(note) for note in made.notes],
        "seconds": round(seconds, 3),
    }
