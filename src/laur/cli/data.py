"""`laur data`: sets of pictures, made ready to learn from."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laur.cli.console import console, say, stderr_is_terminal
from laur.cli.options import AsJson, Device
from laur.core.errors import DataError

if TYPE_CHECKING:
    from laur.train.data.picture import Source
    from laur.train.data.prepare import Progress
    from laur.train.data.reader import TrainingSet

EXAMPLES = """[bold]Examples[/]

laur data prepare folder my-pictures --out sets/mine

laur data prepare pack mini-train --out sets/emoji --style "fluent 3d" --style noto --limit 2000

laur data prepare folder photos --out sets/photos --model sdxl/ --size 1024 --text-states

laur data show sets/mine --sheet mine.png"""

data_app = typer.Typer(no_args_is_help=True, help="Prepare pictures with captions for training, and look at a set.")
KINDS = ("folder", "pack")
NAMED = 5
"""Skipped pictures that are named on the terminal."""


@data_app.command("prepare", epilog=EXAMPLES)
def prepare(
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"Of the source: {', '.join(KINDS)}.")],
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="The source.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the set goes.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Whose autoencoder encodes.")] = "mini",
    size: Annotated[int | None, typer.Option(metavar="N", help="Pixels a side; the model's own by default.")] = None,
    style: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Of a pack: only these styles.")] = None,
    label: Annotated[str, typer.Option(metavar="NAME", help="Of a folder: the style that a mix names it by.")] = "",
    captions: Annotated[str, typer.Option(metavar="HOW", help="auto, txt, metadata or names.")] = "auto",
    trigger: Annotated[str, typer.Option(metavar="WORDS", help="Put before each caption.")] = "",
    licence: Annotated[str, typer.Option(metavar="NAME", help="Of a folder's pictures, written beside each.")] = "",
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="That many pictures at most.")] = None,
    pixels: Annotated[bool, typer.Option("--pixels", help="Keep the pictures: for training an autoencoder.")] = False,
    text_states: Annotated[
        bool, typer.Option("--text-states", help="Keep text states: larger, and quicker for large text encoders.")
    ] = False,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures that are read side by side.")] = 2,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Read, render, crop and encode pictures once, so that training reads latents.

    An interrupted preparation goes on where it was when the same command is given again. What cannot be learned from
    (broken, blank, tiny, without a caption) is left out, counted and named.
    """
    source = _source(kind, path, style or [], label, captions, trigger=trigger, licence=licence, limit=limit)
    from laur.pipeline.device import choose
    from laur.pipeline.loading.load import load
    from laur.train.data.prepare import Wish
    from laur.train.data.prepare import prepare as make

    loaded = load(model)
    wish = Wish(size=size or loaded.info.native_size, pixels=pixels, text_states=text_states)
    with _shown(len(source)) as report:
        data = make(source, out, loaded, wish, place=choose(device), workers=workers, report=report)
    _report(data, out, as_json=as_json)


@data_app.command("show")
def show(
    *,
    folder: Annotated[Path, typer.Argument(metavar="SET", help="A prepared set.")],
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a sheet of some pictures.")] = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures on the sheet.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Say what a set holds, and show some of it (from pictures if it keeps them, else decoded from latents)."""
    from laur.train.data.reader import TrainingSet

    data = TrainingSet.open(folder)
    if sheet is not None:
        from laur.train.data.look import sheet_of

        sheet_of(data, sheet, count)
    _report(data, folder, as_json=as_json)


def _source(
    kind: str,
    path: Path,
    styles: list[str],
    label: str,
    captions: str,
    *,
    trigger: str,
    licence: str,
    limit: int | None,
) -> Source:
    if kind == "pack":
        from laur.train.data.sources.pack import Pack

        return Pack(path, styles=styles, limit=limit)
    if kind == "folder":
        from laur.train.data.sources.folder import Folder

        if captions not in {"auto", "txt", "metadata", "names"}:
            raise DataError(f"--captions is {captions!r}; take auto, txt, metadata or names")
        how: Any = captions
        return Folder(path, captions=how, style=label, trigger=trigger, licence=licence, limit=limit)
    raise DataError(f"there is no source of kind {kind!r}; known are {', '.join(KINDS)}")


@contextmanager
def _shown(total: int) -> Generator[Callable[[Progress], None]]:
    """A progress bar on a terminal, a line for each shard elsewhere."""
    if not stderr_is_terminal():
        yield lambda p: say(f"{p.done} of {p.total}: {p.pictures} pictures, {p.skipped} left out")
        return
    from rich.progress import Progress as Bar

    with Bar(console=console(err=True), transient=True) as bar:
        task = bar.add_task("pictures", total=total)
        yield lambda p: bar.update(task, completed=p.done)


def _report(data: TrainingSet, folder: Path, *, as_json: bool) -> None:
    info = data.info
    if as_json:
        values = {"path": str(folder), "pictures": info.pictures, "skipped": info.skipped_count}
        typer.echo(json.dumps({**values, "styles": info.styles, "licences": info.licences, "model": info.model}))
        return
    say(f"{info.pictures} pictures in {len(info.styles)} styles at {info.size} pixels, encoded by {info.model}")
    if info.skipped_count:
        named = [f"{name} ({reason})" for name, reason in list(info.skipped.items())[:NAMED]]
        more = f" and {info.skipped_count - len(named)} more, see set.json" if info.skipped_count > len(named) else ""
        say(f"{info.skipped_count} left out: {'; '.join(named)}{more}")
    typer.echo(str(folder))
