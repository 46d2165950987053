"""Checks of values that users write, each with its one line."""

from __future__ import annotations

import reprlib
from typing import Any

from laur.core.errors import RecipeError

PROMPT_LIMIT = 10_000


def text(name: str, value: Any) -> None:
    """Raise RecipeError for what is no text, is too long, or holds bytes that are none."""
    if not isinstance(value, str):
        raise RecipeError(f"the {name} must be text, not {reprlib.repr(value)}")
    if len(value) > PROMPT_LIMIT:
        raise RecipeError(f"the {name} has {len(value):,} characters; at most {PROMPT_LIMIT:,} are read; shorten it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(
            f"the {name} holds a byte that is no text, at character {error.start + 1}; type it anew"
        ) from None


def number(name: str, value: Any, low: float, high: float) -> None:
    """Raise RecipeError for what is no number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(f"{name} must be a number from {low:g} to {high:g}, not {reprlib.repr(value)}")
    if not low <= value <= high:  # neither is NaN
        raise RecipeError(f"{name} is {reprlib.repr(value)}; it must be from {low:g} to {high:g}")


def items(name: str, value: Any) -> list[Any] | tuple[Any, ...]:
    """The value, if it is a list; else RecipeError."""
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{name} must be a list, not {reprlib.repr(value)}")
    return value
