"""What an adapter's file recommends: LCM-LoRA (arXiv 2311.05556), other accelerators, trigger words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from laur.core.errors import AdapterError
from laur.optimize.accelerators import LCM_LORA, recognise
from laur.optimize.base import Recommendation

__all__ = ["LCM_LORA", "RECOMMENDS", "from_json", "recommendation"]

RECOMMENDS = "laur.recommends"
"""Metadata key under which a LoRA file carries its Recommendation as JSON."""
_TITLES = ("modelspec.title", "ss_output_name")
"""What a file is called. Tags and comments say what it goes with as often as what it is."""
_GENERIC = re.compile(r"(pytorch_lora_weights|adapter_model)\b.*")
"""File names that say nothing; then the folder's name is asked."""


def recommendation(name: str, path: Path, metadata: Mapping[str, str]) -> Recommendation:
    """What a LoRA file recommends: its own metadata first, else an accelerator's if its names say that it is one."""
    if RECOMMENDS in metadata:
        return from_json(metadata[RECOMMENDS], path.name)
    words = tuple(word.strip() for word in metadata.get("modelspec.trigger_phrase", "").split(",") if word.strip())
    titles = [name, path.parent.name if _GENERIC.fullmatch(path.name) else path.stem]
    titles += [metadata[key] for key in _TITLES if key in metadata]
    if found := recognise(titles):
        return replace(found[1], trigger_words=words)
    return Recommendation(trigger_words=words)


def from_json(text: str, source: str) -> Recommendation:
    """A Recommendation from the JSON that a file carries; keys of later versions are passed over."""
    try:
        found: object = json.loads(text)
        if not isinstance(found, dict):
            raise TypeError
        values = cast("dict[str, Any]", found)
        known = {key: _CASTS[key](value) for key, value in values.items() if key in _CASTS and value is not None}
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise AdapterError(f"the metadata {RECOMMENDS!r} of {source} cannot be read; remove or correct it") from None
    return Recommendation(**known)


def _whole_numbers(values: list[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _words(values: list[Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


_CASTS: dict[str, Any] = {
    "sampler": str,
    "steps": int,
    "guidance": float,
    "timesteps": _whole_numbers,
    "eta": float,
    "trailing": bool,
    "trigger_words": _words,
    "accelerates": bool,
}
