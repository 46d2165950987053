"""`laur adapters`: what `--adapter` takes by name."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from laur.cli.console import console
from laur.cli.options import AsJson

adapters_app = typer.Typer(help="List the adapters that have a name, or print the path of one.")


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
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of an adapter, as `laur adapters` lists it.")],
) -> None:
    """Print the path of an adapter's file, and nothing else."""
    from laur.optimize.catalogue import file_of

    typer.echo(os.fspath(file_of(name)))
