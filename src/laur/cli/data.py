"""`laur data`: sets of pictures, made ready to learn from."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
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

laur data prepare icons --out sets/icons --style "fluent 3d" --style twemoji

laur data prepare museum --query "sunflowers" --where medium=Paintings --limit 200 --out sets/flowers

laur data prepare own sets/emoji --out sets/ink --teacher ink

laur data show sets/mine --sheet mine.png"""

data_app = typer.Typer(no_args_is_help=True, help="Prepare pictures with captions for training, and look at a set.")
KINDS = ("folder", "pack", "icons", "museum", "own")
MUSEUM_LIMIT = 200
NAMED = 5
"""Skipped pictures that are named on the terminal."""


@data_app.command("prepare", epilog=EXAMPLES)
def prepare(
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"Of the source: {', '.join(KINDS)}.")],
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]", help="The source, if it is a folder, a pack, or a set whose captions --model draws."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the set goes.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Whose autoencoder encodes.")] = "mini",
    size: Annotated[int | None, typer.Option(metavar="N", help="Pixels a side; the model's own by default.")] = None,
    style: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of a pack or icons: only these styles.")
    ] = None,
    label: Annotated[str, typer.Option(metavar="NAME", help="Of a folder: the style that a mix names it by.")] = "",
    captions: Annotated[str, typer.Option(metavar="HOW", help="auto, txt, metadata or names.")] = "auto",
    trigger: Annotated[str, typer.Option(metavar="WORDS", help="Put before each caption.")] = "",
    licence: Annotated[str, typer.Option(metavar="NAME", help="Of a folder's pictures, written beside each.")] = "",
    query: Annotated[str, typer.Option(metavar="WORDS", help="Of a museum: what to search for.")] = "",
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of a museum: a filter of its search, medium=Paintings."),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="PLACE", help="Of icons: a folder of npm packages, or a registry; of a museum: its API."
        ),
    ] = None,
    teacher: Annotated[
        str, typer.Option(metavar="NAME", help="Of own pictures: the style's teacher paints them.")
    ] = "",
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of own pictures: steps; the model's own by default.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="G", help="Of own pictures: drawn as a teacher does, guided and without few-step adapter."
        ),
    ] = None,
    until: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Of own pictures: what is predicted at this step, in place of the last."),
    ] = None,
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
    from laur.pipeline.device import choose
    from laur.pipeline.loading.load import load

    drawn = (teacher, model, size, steps, guidance, until)
    told = _Told(path, style or [], label, captions, trigger, licence, query, where or [], origin, limit, *drawn)
    source = _source(kind, told)
    from laur.train.data.maker import Wish, shard_for
    from laur.train.data.prepare import prepare as make

    loaded = load(model)
    side = size or loaded.info.native_size
    shard = shard_for(side, pixels=pixels, text_states=text_states)
    wish = Wish(size=side, pixels=pixels, text_states=text_states, shard=shard)
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


@dataclass(frozen=True, slots=True)
class _Told:
    """What the command line says of a source."""

    path: Path | None
    styles: list[str]
    label: str
    captions: str
    trigger: str
    licence: str
    query: str
    where: list[str]
    origin: str | None
    limit: int | None
    teacher: str
    model: str
    size: int | None
    steps: int | None
    guidance: float | None
    until: int | None


_USES = {
    "folder": {"label", "captions", "trigger", "licence"},
    "pack": {"styles"},
    "icons": {"styles", "origin"},
    "museum": {"query", "where", "origin"},
    "own": {"teacher", "trigger", "steps", "guidance", "until"},
}
_NAMES = {"styles": "--style", "origin": "--from"}


def _source(kind: str, told: _Told) -> Source:
    makers = {"folder": _folder, "pack": _pack, "icons": _icons, "museum": _museum, "own": _own}
    if kind not in makers:
        raise DataError(f"there is no source of kind {kind!r}; known are {', '.join(KINDS)}")
    for name in sorted(set[str]().union(*_USES.values())):
        given = getattr(told, name)
        if given and given != "auto" and name not in _USES[kind]:
            raise DataError(f"{_NAMES.get(name, f'--{name}')} does nothing for {kind}; leave it out")
    if told.path is None and kind in {"folder", "pack", "own"}:
        what = "set's captions" if kind == "own" else kind
        raise DataError(f"which {what}? give its path: laur data prepare {kind} PATH --out FOLDER")
    if told.path is not None and kind in {"icons", "museum"}:
        raise DataError(f"{kind} are not read from {told.path}; leave it out, or give --from {told.path}")
    return makers[kind](told)


def _folder(told: _Told) -> Source:
    from laur.train.data.sources.folder import Folder

    if told.captions not in {"auto", "txt", "metadata", "names"}:
        raise DataError(f"--captions is {told.captions!r}; take auto, txt, metadata or names")
    how: Any = told.captions
    folder = told.path or Path()
    return Folder(folder, captions=how, style=told.label, trigger=told.trigger, licence=told.licence, limit=told.limit)


def _pack(told: _Told) -> Source:
    from laur.train.data.sources.pack import Pack

    return Pack(told.path or Path(), styles=told.styles, limit=told.limit)


def _icons(told: _Told) -> Source:
    from laur.train.data.sources.icons import Icons
    from laur.train.data.sources.npm import Packages

    return Icons(Packages(told.origin, report=say), styles=told.styles, limit=told.limit)


def _own(told: _Told) -> Source:
    from laur.style.teachers import teacher
    from laur.train.data.sources.own import Own
    from laur.train.data.sources.restyled import Restyled

    if told.trigger and not told.teacher:
        raise DataError("--trigger names words for a style; say who paints it with --teacher")
    painter = teacher(told.teacher) if told.teacher else None
    how: Any = {"size": told.size, "limit": told.limit, "steps": told.steps, "guidance": told.guidance}
    how["until"] = told.until
    source = Own(told.path or Path(), told.model, **how)
    return source if painter is None else Restyled(source, painter, told.trigger, seed=0)


def _museum(told: _Told) -> Source:
    from laur.train.data.sources.museum import Museum

    def report(found: int, looked: int) -> None:
        if looked % 50 == 0:
            say(f"{found} pictures in the public domain of {looked} objects looked at")

    pairs = [pair.partition("=") for pair in told.where]
    if wrong := [key for key, equals, value in pairs if not (key and equals and value)]:
        raise DataError(f"--where {wrong[0]!r} is no KEY=VALUE, medium=Paintings say")
    filters = {key: value for key, _, value in pairs}
    limit = told.limit or MUSEUM_LIMIT
    museum = Museum(told.query, limit=limit, filters=filters, base=told.origin, report=report)
    if museum.passed:
        say(f"passed over: {', '.join(f'{count} {why}' for why, count in museum.passed.items())}")
    return museum


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
    styles = f" in {_counted(len(info.styles), 'style')}" if set(info.styles) != {""} else ""
    say(f"{_counted(info.pictures, 'picture')}{styles} at {info.size} pixels, encoded by {info.model}")
    if info.skipped_count:
        named = [f"{name} ({reason})" for name, reason in list(info.skipped.items())[:NAMED]]
        more = f" and {info.skipped_count - len(named)} more, see set.json" if info.skipped_count > len(named) else ""
        say(f"{info.skipped_count} left out: {'; '.join(named)}{more}")
    typer.echo(str(folder))


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
