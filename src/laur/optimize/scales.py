"""What a LoRA's factors are multiplied by: alpha / rank, from wherever the file's writer put alpha.

kohya's scripts store one tensor per layer; diffusers puts the settings of PEFT into the file's metadata; PEFT itself
writes adapter_config.json beside the file. Without any of them the scale is 1, as in all their readers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from laur.core.errors import AdapterError
from laur.optimize.names import Key

if TYPE_CHECKING:
    from laur.optimize.deltas import Delta, Weighting

DIFFUSERS_METADATA = "lora_adapter_metadata"
DORA = "laur.dora"
"""Metadata key: whose DoRA a file holds, PEFT's or LyCORIS's, where its layout would say the other's."""
PEFT_CONFIG = "adapter_config.json"
_SPECIAL = re.compile(r"[\\^$*+?{}\[\]|()]")
_NESTED = re.compile(r"[*+?}][^()]*\)\s*[*+{]|[*+][*+]|([*+].*){4}")
_LONGEST = 1000


def peft_settings(path: Path, metadata: Mapping[str, str], layout: str) -> dict[str, Any]:
    """PEFT's settings as "unet.lora_alpha" and so on; empty where the file needs none."""
    if layout == "PEFT":
        beside = path.with_name(PEFT_CONFIG)
        if not beside.is_file():
            raise AdapterError(f"{path.name} is in PEFT's layout and needs its {PEFT_CONFIG} beside it; copy it there")
        try:
            text = beside.read_text("utf-8", errors="replace")
        except OSError as error:
            raise AdapterError(f"{beside} cannot be read: {error.strerror or error}") from None
        return {f"unet.{key}": value for key, value in _object(text, beside.name).items()}
    if DIFFUSERS_METADATA in metadata:
        return _object(metadata[DIFFUSERS_METADATA], f"the metadata of {path.name}")
    return {}


def for_encoders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings beside a file, for a text encoder's too: they are of one network, and do not say of which."""
    own = {name.removeprefix("unet."): value for name, value in settings.items()}
    return {f"{part}.{key}": value for part in ("unet", "text_encoder", "text_encoder_2") for key, value in own.items()}


def dora_weighting(metadata: Mapping[str, str], source: str) -> Weighting | None:
    """What the weight of a file's DoRA means, where its metadata say so. Raises AdapterError for other words."""
    match metadata.get(DORA):
        case None | "peft" | "lycoris" as found:
            return found
        case _:
            raise AdapterError(f"the metadata {DORA!r} of {source} must be peft or lycoris; remove or correct it")


def with_weighting(deltas: Mapping[str, Delta], weighting: Weighting | None) -> Mapping[str, Delta]:
    """The same deltas, DoRA's weight taken so; None leaves it as the layout has it."""
    from laur.optimize.deltas import DoRA

    if weighting is None:
        return deltas
    return {
        name: replace(delta, weighting=weighting) if isinstance(delta, DoRA) else delta
        for name, delta in deltas.items()
    }


def peft_scale(settings: Mapping[str, Any], key: Key, rank: int) -> float:
    """alpha / rank by PEFT's settings, or alpha / sqrt(rank) where they say so (rsLoRA, arXiv 2312.03732).

    NaN where alpha is no number.
    """
    prefix = f"{key.component}."
    # PEFT's LoHa and LoKr call it alpha
    alpha = _by_pattern(settings, key, "alpha_pattern", settings.get(prefix + "alpha", rank), "lora_alpha")
    try:
        return float(alpha) / (math.sqrt(rank) if settings.get(prefix + "use_rslora") else rank)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def peft_rank(settings: Mapping[str, Any], key: Key) -> int | None:
    """What PEFT's settings call a layer's rank; None where they say nothing."""
    rank = _by_pattern(settings, key, "rank_pattern", None, "r")
    return rank if isinstance(rank, int) and rank > 0 else None


def scales_input(settings: Mapping[str, Any], key: Key) -> bool | None:
    """Whether PEFT's IA3 multiplies a layer's input, as it does where the settings call it a feed-forward; None where
    they say nothing."""
    found: object = settings.get(f"{key.component}.feedforward_modules")
    if isinstance(found, str):
        return _matches(found, key.layer)
    if not isinstance(found, list | tuple):
        return None
    return any(isinstance(end, str) and key.layer.endswith(end) for end in cast("list[object]", found))


def _by_pattern(settings: Mapping[str, Any], key: Key, table: str, default: Any, plain: str) -> Any:
    """The layer's own value, else the one for all; NaN where the table is none."""
    prefix = f"{key.component}."
    found: object = settings.get(prefix + table) or {}
    if not isinstance(found, dict):
        return math.nan
    patterns = cast("Mapping[str, Any]", found)
    own = (value for pattern, value in patterns.items() if _matches(pattern, key.layer))
    return next(own, settings.get(prefix + plain, default))


def _matches(pattern: str, layer: str) -> bool:
    """As PEFT matches: a regular expression for the end of a name, from a dot on.

    Most are plain names. Of the others those are taken for names too that could run for ever: with a repetition of what
    repeats itself, or longer than any that a trainer writes.
    """
    if not _SPECIAL.search(pattern):  # a dot stands for any character, and in names for itself
        return layer == pattern or layer.endswith(f".{pattern}")
    if len(pattern) > _LONGEST or _NESTED.search(pattern):
        return layer == pattern
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", layer) is not None
    except (re.error, OverflowError, RecursionError):
        return layer == pattern


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise AdapterError(f"{where} should hold the adapter's settings as a JSON object, and does not")
    return cast("dict[str, Any]", found)
