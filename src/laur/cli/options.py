"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

import typer

from laur.core.errors import RecipeError

FLAG = " "
"""In place of a value's name: what is there or not has none."""
MODEL = "Model"
SAMPLING = "Sampling"
PICTURE = "From a picture"
OUTPUT = "Output"
MACHINE = "Machine"

Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; the best there is by default.", rich_help_panel=MACHINE),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="float32, bfloat16 or float16; what this machine computes fastest by default.",
        rich_help_panel=MACHINE,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", metavar=FLAG, help="Print one JSON object and nothing else on standard output.", show_default=False
    ),
]

NO_ADAPTER = "none"


def whole(text: str) -> int:
    """What an option that counts takes. The error repeats the text, which typer's own does not."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """What an option that measures takes."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def between(low: int, high: int) -> Callable[[str], int]:
    """A whole number in a range."""

    def parse(text: str) -> int:
        value = whole(text)
        if not low <= value <= high:
            raise typer.BadParameter(f"{value} is not from {low} to {high}")
        return value

    return parse


def parse_size(text: str) -> tuple[int, int]:
    """Width and height from 300x200, or from 256 for a square. Raises RecipeError; the range is the Recipe's matter."""
    match = re.fullmatch(r"\s*(-?\d{1,12})(?:\s*[x×*]\s*(-?\d{1,12}))?\s*", text.lower())
    if match is None:
        raise RecipeError(f"size {text!r} is not WIDTHxHEIGHT in pixels, as in 256x256")
    width, height = match.groups()
    return int(width), int(height or width)


def parse_timesteps(text: str) -> tuple[int, ...]:
    """From 999,759,499,259. Raises RecipeError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(f"timesteps {text!r} are not whole numbers with commas, as in 999,759,499,259") from None
