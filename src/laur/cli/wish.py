"""From options to a Recipe, checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from laur.cli.options import NO_ADAPTER
from laur.core.errors import LaurError, RecipeError
from laur.core.recipe import AdapterRef, Recipe

RECIPE_BYTES = 1_000_000
_CONTENT = {"checkpoint": "checkpoint_sha256", "refiner": "refiner_sha256"}
"""Which recorded hash belongs to which name: another name means another content."""


def make_recipe(fields: Mapping[str, Any], adapters: Sequence[str], base: Recipe | None = None) -> Recipe:
    """The recipe of the options that were given; those left at None come from `base` or stay open.

    Raises RecipeError.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if adapters:
        given["adapters"] = parse_adapters(adapters)
    if base is None:
        if "prompt" not in given:
            raise RecipeError("there is no prompt; say what to draw, as in: laur generate 'a red fox'")
        return Recipe(**given)
    if "style" in given and "adapters" not in given and base.style is not None and base.adapters is not None:
        given["adapters"] = tuple(ref for ref in base.adapters if ref.name != base.style)  # it takes the other's place
        given.setdefault("prompt", _without_style(base.prompt, base.style))
    if "image" in given and "mask" not in given and given["image"] != base.image:
        given = {"mask": None, "mask_blur": None, "paste_back": None, **given}  # they were the other picture's
    if "prompt" in given and "adapters" not in given and base.adapters is not None:
        # open again, so that their words come into the new prompt too
        given["adapters"] = tuple(replace(ref, sha256=None) for ref in base.adapters)
    for name, recorded in _CONTENT.items():
        if name in given:
            given[recorded] = None
    if "steps" in given or "timesteps" in given:
        given = {"steps": None, "timesteps": None, **given}
    return base.replace(**given)


def _without_style(prompt: str, style: str) -> str:
    """The prompt without the words that the style had put there, whatever the family of models."""
    from laur.input.tags import without_words
    from laur.style.cards import FAMILIES, card
    from laur.style.lookup import is_style

    words = dict.fromkeys(word for name in FAMILIES for word in card(style).triggers(name)) if is_style(style) else ()
    return without_words(prompt, words)


def check_seeds(recipe: Recipe, count: int) -> None:
    """Raise RecipeError where the last of `count` pictures would have a seed out of range."""
    if recipe.seed is not None:
        recipe.replace(seed=recipe.seed + count - 1)


def parse_adapters(texts: Sequence[str]) -> tuple[AdapterRef, ...]:
    """From NAME_OR_FILE[:WEIGHT]; `none`, alone, is none at all."""
    if NO_ADAPTER in texts:
        if len(texts) > 1:
            raise RecipeError(f"--adapter {NO_ADAPTER} means no adapter at all; leave the other --adapter out")
        return ()
    return tuple(AdapterRef.parse(text) for text in texts)


def read_recipe(path: Path) -> Recipe:
    """From a JSON file (a recipe, or a record that holds one) or from a picture that Laur made. Raises RecipeError."""
    try:
        with path.open("rb") as file:
            content = file.read(RECIPE_BYTES)
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from None
    if content.lstrip()[:1] == b"{":
        return _from_json(path, content)
    from laur.render.metadata import read

    recipe = read(path).recipe
    if recipe is None:
        raise RecipeError(f"{path} holds no recipe; give a recipe's JSON, or a picture that Laur made with metadata")
    return recipe


def _from_json(path: Path, content: bytes) -> Recipe:
    import json

    try:
        values = json.loads(content)
        return Recipe.from_dict(values["recipe"] if isinstance(values.get("recipe"), dict) else values)
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON: {error}") from None
    except LaurError as error:
        raise RecipeError(f"{path}: {error}") from None
    except TypeError as error:
        raise RecipeError(f"{path}: a value has the wrong type: {error}") from None
