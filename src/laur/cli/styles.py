"""`laur styles`: what `--style` takes by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laur.cli.console import console, say
from laur.cli.options import AsJson, Device, Dtype

if TYPE_CHECKING:
    from laur.style.cards import Card

EXAMPLES = """[bold]Examples[/]

laur styles

laur styles --gallery gallery/ --prompt "a red fox" """


def styles(
    *,
    gallery: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Draw each style and write a page of them.")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Of the gallery; repeatable.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the gallery.")] = 7,
    model: Annotated[str, typer.Option("-m", "--model", metavar="NAME", help="Whose gallery.")] = "mini",
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """List the styles, with the families of models that each is made for.

    A style is a card (TOML) and an adapter's file; put your own into your folder.
    """
    from laur.style.cards import known, user_folder

    cards = known()
    if gallery is not None:
        from laur.pipeline.engine import Engine
        from laur.pipeline.gallery import write_gallery

        engine = Engine(model, device=device, dtype=dtype)
        page = write_gallery(engine, list(cards.values()), gallery, prompts=prompt or (), seed=seed, report=say)
        typer.echo(str(page))
        return
    if as_json:
        rows = [_row(card) for card in cards.values()]
        typer.echo(json.dumps({"styles": rows, "folder": os.fspath(user_folder())}, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table("style", "kind", "made for", "what it is", box=None, header_style="bold", pad_edge=False)
    for card in cards.values():
        table.add_row(card.name, card.kind, ", ".join(_families(card)), card.words)
    console().print(table)
    _hints(list(cards.values()))
    typer.echo(f"\nYour folder: {user_folder()}")


def _hints(cards: list[Card]) -> None:
    """How a style that is words alone comes to a file: where one can be had, or else by training."""
    forms = [(card.name, family, form) for card in cards for family, form in card.forms.items() if form.file is None]
    if known := [entry for entry in forms if entry[2].command]:
        typer.echo("\nFiles of others, found by name and not tried here; read their licence, then:")
        for name, family, form in known:
            typer.echo(f"  {name} on {family}: {form.command}")
    if others := sorted({name for name, _, form in forms if not form.command}):
        train = "laur train style --model MODEL --data FOLDER"
        typer.echo(f"\nWords alone where no file is known ({', '.join(others)}); train your own: {train}")


def _families(card: Card) -> list[str]:
    """With a mark where it is words alone, or its file is missing."""
    marks = {
        family: "" if form.file and form.file.is_file() else " (no file)" if form.file else " (words)"
        for family, form in card.forms.items()
    }
    return [family + mark for family, mark in marks.items()]


def _row(card: Card) -> dict[str, object]:
    forms = {
        family: {
            "file": os.fspath(form.file) if form.file else None,
            "hub": form.hub or None,
            "hub_file": form.hub_file or None,
            "verified": form.verified,
            "found": form.found or None,
            "get": form.command or None,
            "trigger_words": form.trigger_words,
            "weight": form.weight,
            "licence": form.licence or None,
        }
        for family, form in card.forms.items()
    }
    values = {"name": card.name, "kind": card.kind, "words": card.words, "origin": card.origin}
    return {**values, "teacher": card.teacher or None, "note": card.note or None, "forms": forms}
