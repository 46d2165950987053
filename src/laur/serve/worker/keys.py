"""What a picture's file is named by."""

from __future__ import annotations

import hashlib
import json

from laur.core.recipe import Recipe
from laur.render.embedded import Provenance

_WHERE = frozenset({"laur", "torch", "device", "dtype", "backend", "plan_key"})
"""Of the provenance, what decides the pixels; the rest is in the plan's key or the recipe."""


def file_key(provenance: Provenance, recipe: Recipe) -> str:
    """sha256 over all that decides a file but its format: plan, arithmetic, programs and the filled recipe."""
    values = {name: value for name, value in provenance.to_dict().items() if name in _WHERE}
    values["device"] = provenance.device.partition(":")[0]
    text = json.dumps([values, recipe.hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def in_format(key: str, format: str, *, metadata: bool) -> str:
    """The name of the file in a store."""
    if not metadata:
        key = hashlib.sha256(f"{key} without metadata".encode()).hexdigest()
    return f"{key}.{format}"


def judged(file: str, by: str, *, blurred: bool) -> str:
    """The name of a file that `by` has judged: another one for a picture that is shown blurred."""
    key, _, suffix = file.partition(".")
    key = hashlib.sha256(f"{key} judged by {by}{' and blurred' if blurred else ''}".encode()).hexdigest()
    return f"{key}.{suffix}"
