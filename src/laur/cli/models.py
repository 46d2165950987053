"""`laur models`: what `--model` takes by name."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from laur.cli.console import console
from laur.cli.options import AsJson

models_app = typer.Typer(help="List the models that have a name, or print the path of one.")


@models_app.callback(invoke_without_command=True)
def list_models(*, context: typer.Context, as_json: AsJson = False) -> None:
    """List the models that have a name: embedded, and those in your folder.

    Any other model is given to --model by the path of its folder or .safetensors file, or by its hub id.
    """
    if context.invoked_subcommand is not None:
        return
    from laur.pipeline.loading.names import known, user_folder

    entries = known()
    if as_json:
        rows = [{"name": e.name, "kind": str(e.kind), "path": os.fspath(e.path) if e.path else None} for e in entries]
        typer.echo(json.dumps({"models": rows, "folder": os.fspath(user_folder())}))
        return
    from rich.table import Table

    table = Table("model", "kind", "path", box=None, header_style="bold", pad_edge=False)
    for entry in entries:
        table.add_row(entry.name, str(entry.kind), os.fspath(entry.path or ""))
    console().print(table)
    typer.echo(f"\nYour folder: {user_folder()}")


@models_app.command("path")
def model_path(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a model, as `laur models` lists it.")],
) -> None:
    """Print the path of a model's folder or file, and nothing else. The embedded one is unpacked first if need be."""
    from laur.pipeline.loading.names import locate

    typer.echo(os.fspath(locate(name).path))
