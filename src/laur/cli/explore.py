"""`laur explore`: one sheet that shows what styles do at several weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from laur.cli import generate_options as o
from laur.cli.options import Device, Dtype, parse_size
from laur.core.errors import OutputError, RecipeError

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Of sheets, by suffix."""

EXAMPLES = """[bold]Examples[/]

laur explore "a red fox" --styles fauvism,ink,watercolour --weights 0,0.5,1 -o sheet.png

laur explore "a {castle|windmill}" --styles oil --weights 0.4,0.7,1,1.3 --seed 7 --steps 8"""


def explore(
    *,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    styles: Annotated[str, typer.Option(metavar="A,B,…", help="A row each: styles, adapters or files.")],
    weights: Annotated[str, typer.Option(metavar="N,N,…", help="A column each.")] = "0,0.5,1",
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The sheet.")] = Path("explore.png"),
    seed: o.Seed = None,
    steps: o.Steps = None,
    size: o.Size = None,
    guidance: o.Guidance = None,
    model: o.Model = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Draw a prompt in several styles at several weights, all from one seed, on one labelled sheet."""
    width, height = parse_size(size) if size is not None else (None, None)
    given = {"steps": steps, "guidance": guidance, "width": width, "height": height}
    fields = {name: value for name, value in given.items() if value is not None}
    names, numbers = [name.strip() for name in styles.split(",") if name.strip()], _numbers(weights)
    kind = _FORMATS.get(out.suffix.lower())
    if kind is None:
        raise OutputError(f"{out} should end in {', '.join(_FORMATS)}")
    if out.is_dir():
        raise OutputError(f"{out} is a folder; give a file in it")
    from laur.cli.console import warn
    from laur.pipeline.creative import explore as draw
    from laur.pipeline.engine import Engine
    from laur.utils.files import atomic_write

    engine = Engine(model or "mini", device=device, dtype=dtype)
    sheet = draw(engine, prompt, names, numbers, seed=seed, **fields)
    for text in sheet.warnings:
        warn(text)
    buffer = io.BytesIO()
    sheet.image.save(buffer, kind)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        typer.echo(str(atomic_write(out, buffer.getvalue())))
    except OSError as error:
        raise OutputError(f"the sheet cannot be written to {out}: {error.strerror or error}") from None


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise RecipeError(f"--weights is {text!r}; give numbers, as in 0,0.5,1") from None
