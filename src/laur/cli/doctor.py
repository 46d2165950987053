"""`laur doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from laur.cli.console import console
from laur.cli.options import FLAG, AsJson, Device, Dtype

if TYPE_CHECKING:
    from laur.cli.checks import Check

COLOURS = {"ok": "green", "note": "yellow", "fault": "bold red"}
CANNOT_DRAW = 1


def doctor(
    draw: Annotated[
        bool, typer.Option("--draw", metavar=FLAG, help="Also draw a small picture, which proves it.")
    ] = False,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Show what this machine can do, and which extras are missing with the command that installs each.

    Exits with 0 if it can draw, with 1 if something stands in the way.
    """
    from laur.cli.checks import examine

    checks = list(examine(device, dtype, draw=draw))
    able = all(check.state != "fault" for check in checks)
    if as_json:
        typer.echo(json.dumps({"able": able, "checks": [asdict(check) for check in checks]}))
    else:
        _show(checks)
        typer.echo("\nThis machine can draw." if able else "\nThis machine cannot draw yet: see above.")
    if not able:
        raise typer.Exit(CANNOT_DRAW)


def _show(checks: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        detail = Text(check.detail)
        if check.remedy:
            detail.append(f"\n{check.remedy}", style="cyan")
        table.add_row(Text(check.state, style=COLOURS[check.state]), check.name, detail)
    console().print(table)
