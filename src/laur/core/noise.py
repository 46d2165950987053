"""Noise(seed): one stream of standard normal draws per picture.

Draws come from torch's CPU generator in diffusers' order (the starting latent, then one draw for each step that takes
one), so that a seed means the same on every device, at every batch position, and in diffusers.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Noise:
    """Draws of one picture, by (stage, draw). Any draw may be asked for at any time, and again.

    Stage 0 is seeded with the seed itself; later stages with a hash of seed and stage, so that what an earlier stage
    consumed never shifts a later one.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        self._seed = seed
        self._shape = shape
        self._streams: dict[int, tuple[torch.Generator, list[Tensor]]] = {}

    def draw(self, stage: int, index: int) -> Tensor:
        """Draw `index` of `stage`, (C, h, w) float32 on the CPU. Draw 0 is the stage's starting noise."""
        generator, drawn = self._streams.setdefault(stage, (_generator(self._seed, stage), []))
        while len(drawn) <= index:
            # diffusers draws with a leading batch dimension of one; the shape does not change the stream, but for
            # small tensors torch takes another code path by element count, so keep exactly that shape
            drawn.append(torch.randn((1, *self._shape), generator=generator)[0])
        return drawn[index]


def _generator(seed: int, stage: int) -> torch.Generator:
    if stage:
        digest = hashlib.sha256(f"{seed}/{stage}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
    return torch.Generator("cpu").manual_seed(seed)
