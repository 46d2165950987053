"""`laur adapters`: what `--adapter` takes by name, and work on adapter files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from laur.cli.console import NOTHING, console, show_table, warn
from laur.cli.options import AsJson, number, whole

adapters_app = typer.Typer(
    help="List the adapters that have a name; look into, convert, mix and extract adapter files."
)


File = Annotated[str, typer.Argument(metavar="FILE", help="An adapter's file or name.", show_default=False)]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where to write, ending in .safetensors.")]
Model = Annotated[
    str | None,
    typer.Option("-m", "--model", metavar="NAME", help="It was made for; found by its layers unless it is unusual."),
]
Format = Annotated[str, typer.Option(metavar="NAME", help="diffusers, or kohya (A1111 and ComfyUI read both).")]
Rank = Annotated[int | None, typer.Option(metavar="N", parser=whole, help="Of every layer; the error is printed.")]
Precision = Annotated[str | None, typer.Option(metavar="NAME", help="fp32, fp16 or bf16; as it is by default.")]


@adapters_app.callback(invoke_without_command=True)
def list_adapters(*, context: typer.Context, as_json: AsJson = False) -> None:
    """List the adapters that have a name: embedded, installed, and those in your folder.

    A file in your folder is named by its name without suffix. Any other .safetensors file is given by its path.
    """
    if context.invoked_subcommand is not None:
        return
    from laur.optimize.catalogue import known, user_folder

    entries = known()
    if as_json:
        rows = [{"name": e.name, "origin": e.origin, "path": os.fspath(e.path) if e.path else None} for e in entries]
        typer.echo(json.dumps({"adapters": rows, "folder": os.fspath(user_folder())}))
        return
    from rich.table import Table

    table = Table("adapter", "from", "file", box=None, header_style="bold", pad_edge=False)
    for entry in entries:
        table.add_row(entry.name, entry.origin, os.fspath(entry.path or ""))
    console().print(table)
    typer.echo(f"\nYour folder: {user_folder()}")


@adapters_app.command("path")
def adapter_path(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of an adapter or a style.")],
) -> None:
    """Print the path of an adapter's file, and nothing else."""
    from laur.optimize.catalogue import file_of
    from laur.style.lookup import file_behind

    typer.echo(os.fspath(file_of(file_behind(name))))


@adapters_app.command("inspect")
def adapter_inspect(file: File, *, model: Model = None, as_json: AsJson = False) -> None:
    """Show where an adapter's weights go in the model that it was made for, and what is left and why."""
    from laur.cli.adapter_work import coverage

    facts = coverage(file, model)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    _table({key: value for key, value in facts.items() if key != "left_keys"})


@adapters_app.command("convert")
def adapter_convert(
    file: File,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write, ending in .safetensors.")],
    *,
    format: Format = "diffusers",
    model: Model = None,
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Write an adapter in another layout, number for number the same."""
    from laur.cli.adapter_work import convert

    _report(convert(file, out, format=format, model=model, precision=precision), as_json)


@adapters_app.command("merge")
def adapter_merge(
    adapters: Annotated[
        list[str], typer.Argument(metavar="FILE[:WEIGHT]...", help="Adapters with their weights.", show_default=False)
    ],
    *,
    out: Out,
    rank: Rank = None,
    format: Format = "diffusers",
    model: Model = None,
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Add adapters with weights into one file: exactly, or of one rank with the error that it costs.

    A weight may be negative, which takes what that adapter does away; FILE:0.7:mid=0 weighs blocks of its own.
    """
    from laur.cli.adapter_work import merge
    from laur.core.recipe import AdapterRef

    refs = [AdapterRef.parse(text) for text in adapters]
    _report(merge(refs, out, format=format, model=model, rank=rank, precision=precision), as_json)


@adapters_app.command("extract")
def adapter_extract(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="A model made from the base.", show_default=False)],
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model it was made from.", show_default=False)],
    *,
    out: Out,
    rank: Rank = None,
    error: Annotated[
        float | None,
        typer.Option(metavar="X", parser=number, help="In place of a rank: the most to lose, such as 0.2, per layer."),
    ] = None,
    text: Annotated[bool, typer.Option("--text/--no-text", help="Take the text encoders' differences too.")] = True,
    format: Format = "diffusers",
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Write what one model differs by from another as a LoRA. The relative error that it leaves is printed."""
    from laur.cli.adapter_work import extract

    if rank is None and error is None:
        rank = 32
    found = extract(tuned, base, out, format=format, rank=rank, error=error, text=text, precision=precision)
    _report(found, as_json)


def _report(facts: dict[str, Any], as_json: bool) -> None:
    for text in facts.get("warnings", ()):
        warn(text)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    lost = facts.get("relative_error")
    rest = "" if lost is None else f"; relative error {lost:.2g}" if lost else "; exact"
    ranks = facts.get("ranks")
    of = f" of rank {', '.join(map(str, ranks))}" if ranks else ""
    typer.echo(f"{facts['path']}: {facts['layers']} layers{of}{rest}")


def _table(facts: dict[str, Any]) -> None:
    show_table({name.replace("_", " "): _words(value) for name, value in facts.items() if value not in NOTHING})


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_words(item)}" for key, item in value.items())  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
    return str(value)
