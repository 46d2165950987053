"""`laur inspect`: what a checkpoint, an adapter or a picture is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laur.cli.console import NOTHING, show_table
from laur.cli.options import AsJson

if TYPE_CHECKING:
    from laur.cli.facts import Facts

EXAMPLES = """[bold]Examples[/]

laur inspect apple.png

laur inspect lcm-lora.safetensors --model sd15.safetensors

laur inspect mini --json"""


def inspect(
    *,
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A model, an adapter or a picture; a name too.", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option("-m", "--model", metavar="NAME", help="Of an adapter: does it fit this model?")
    ] = None,
    prediction: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Of a model whose file cannot tell: epsilon or v_prediction.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a file is: a model, a LoRA, or how a picture was made. Nothing is drawn or changed."""
    from laur.cli.facts import find_facts

    facts = find_facts(path, model=model, prediction=prediction)
    if as_json:
        typer.echo(json.dumps({"kind": facts.kind, **facts.values}, ensure_ascii=False))
    else:
        _show(facts)


def _show(facts: Facts) -> None:
    rows = {name.replace("_", " "): _words(value) for name, value in facts.values.items() if value not in NOTHING}
    show_table({"kind": facts.kind, **rows})


def _words(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() if abs(value) >= 1_000_000:
            return f"{value:,}"
        case dict():
            return "\n".join(f"{key}: {_in_a_line(item)}" for key, item in value.items() if item is not None)
        case list() | tuple():
            return _in_a_line(value)
        case _:
            return str(value)


def _in_a_line(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{key} {_in_a_line(item)}" for key, item in value.items() if item is not None)
        case list() | tuple():
            return ("; " if any(isinstance(item, dict) for item in value) else ", ").join(map(_in_a_line, value))
        case _:
            return _words(value)
