"""From what other APIs' clients send to jobs."""

from __future__ import annotations

import re
import secrets
from typing import Any

from laur.core.errors import NotFoundError, RecipeError
from laur.core.recipe import Recipe
from laur.serve.job import Job
from laur.serve.service import Service

SEEDS = 2**32
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


def size(text: str | None) -> dict[str, Any]:
    """Width and height from 256x192; nothing for auto. Raises RecipeError."""
    if text in {None, "auto"}:
        return {}
    match = _SIZE.fullmatch(text or "")
    if match is None:
        raise RecipeError(f"size {str(text)[:80]!r} is not WIDTHxHEIGHT in pixels, as in 256x256, nor auto")
    return {"width": int(match[1]), "height": int(match[2])}


def checkpoint(service: Service, name: str | None, *, stand_ins: tuple[str, ...] = ()) -> str | None:
    """What a recipe says for a model's name: None for the server's own, and for those that it stands in for.

    Raises NotFoundError for a name that this server does not know.
    """
    if name is None or name == service.names.models()[0] or name.startswith(stand_ins):
        return None
    if name not in service.names.models():
        raise NotFoundError(f"no model is called {name[:80]!r} here; there are {', '.join(service.names.models())}")
    return name


def several(recipe: Recipe, count: int, **fields: Any) -> list[Job]:
    """Jobs for `count` pictures of one recipe with seeds that follow each other; an open one is drawn once.

    Their ids are ID, ID-1, ID-2 … where fields have an `id`.
    """
    seed = secrets.randbelow(SEEDS) if recipe.seed is None else recipe.seed
    first = fields.pop("id", None) or secrets.token_hex(16)
    return [
        Job(recipe=recipe.replace(seed=seed + number), id=first if number == 0 else f"{first}-{number}", **fields)
        for number in range(count)
    ]
