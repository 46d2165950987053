"""What the Engine takes: a Plan, pure data, in which every name has become a content hash.

A Plan is a tuple of Stages that run one after the other on the same latent: base then refiner, or draw then upscale.
Two equal Plans make the same picture; `Plan.key` is the hash that says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from laur.core.sampler.table import SamplerTable


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """The text of one row, and how to encode it."""

    prompt: str
    """With A1111's weight syntax."""
    clip_skip: int = 1
    """1 takes the encoder's usual layer, 2 the one before it, as artists count."""
    windows: int = 1
    """How many of the encoder's windows the states fill: padded per request, never by a neighbour."""
    zeros: bool = False
    """States of zeros in place of an empty prompt, as SDXL's base was trained."""


ByBlock = tuple[tuple[str, float], ...]
"""Factors by the beginning of layers' names ("unet.mid_block"), sorted; the longest that fits counts, else 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterUse:
    """An adapter by content, and how much of it."""

    sha256: str
    weight: float
    by_block: ByBlock | None = None
    """Factors of `weight`; None is 1 everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpec:
    """One row of every step of a stage."""

    text: TextSpec
    size_ids: tuple[float, ...] | None = None
    guidance_embedding: float | None = None
    adapters: tuple[AdapterUse, ...] = ()
    """Of this row alone, beside the stage's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combine:
    """From a plan's own rows to its one prediction: the sum of mask · weight · row.

    With `rescale` = phi the sum is pulled towards the standard deviation of row `reference`
    (arXiv 2305.08891, section 3.4).
    """

    weights: tuple[float, ...]
    rescale: float = 0.0
    reference: int = -1
    regions: tuple[str | None, ...] = ()
    """Where each row counts, as AdapterRef.region says it, None where no region lies; empty: each counts everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One checkpoint, one table, the rows of each step and how they combine."""

    checkpoint: str
    """`Checkpoint.key`: weights, configs and tokenizers by content."""
    table: SamplerTable
    rows: tuple[RowSpec, ...]
    combine: Combine
    adapters: tuple[AdapterUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """The picture that a plan begins from, and what of it is drawn anew."""

    image: str
    """By content, sha256:HASH; brought to the plan's size."""
    mask: str | None = None
    """By content; None draws all of it anew."""
    from_noise: bool = False
    """The first latent is noise alone, not the picture with noise: inpainting at full strength, as in diffusers."""
    mask_blur: float = 0.0
    """Pixels over which the drawn part passes into the kept one."""
    paste_back: bool = False
    """Whether the kept part is the picture's own pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that determines one picture, given device arithmetic."""

    stages: tuple[Stage, ...]
    seed: int
    latent_shape: tuple[int, int, int]
    """(channels, height, width) of the latent."""
    width: int
    """Of the picture, in pixels: what is drawn is cropped to it, centred."""
    height: int
    group: str | None = None
    """Plans of one group (the frames of a video) are the only ones whose rows may see each other."""
    begin: Beginning | None = None
    """None begins from noise."""

    @property
    def steps(self) -> int:
        """Denoiser steps over all stages."""
        return sum(len(stage.table.steps) for stage in self.stages)

    @property
    def key(self) -> str:
        """sha256 over the canonical JSON of the plan."""
        values = dataclasses.asdict(self, dict_factory=_said)
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


_LATER = frozenset({"begin", "by_block"})


def _said(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Plain values, without fields of a later day that say nothing: keys are those that plans had before."""
    return {name: value for name, value in pairs if value is not None or name not in _LATER}
