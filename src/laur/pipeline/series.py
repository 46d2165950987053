"""Several pictures of one recipe, each with the next seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laur.input.wildcards import has_wildcards

if TYPE_CHECKING:
    from laur.core.recipe import Recipe
    from laur.pipeline.engine import Engine
    from laur.pipeline.resolve import Resolved


def series(engine: Engine, recipe: Recipe, count: int) -> list[Resolved]:
    """`count` plans of a recipe: picture i has seed + i, and draws its own wildcards. Errors: as Engine.resolve."""
    first = engine.resolve(recipe)
    seed = first.recipe.seed
    assert seed is not None
    drawn = has_wildcards(recipe.prompt) or has_wildcards(recipe.negative_prompt)
    others = recipe if drawn else first.recipe  # a filled recipe is resolved sooner
    return [first, *(engine.resolve(others.replace(seed=seed + index)) for index in range(1, count))]
