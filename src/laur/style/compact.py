"""A LoRA in 8 bits: E4M3 floats, which every reader of LoRA files that knows fp8 takes as they are.

Both factors of a layer are brought to the same size first (up · s, down / s change nothing), then scaled by a power of
two so that their largest value lies just under E4M3's; the scale goes into the layer's alpha. An E4M3 value is off by
2.6 % on average whatever its size (3 bits of fraction), and a factor's errors average out over its rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from laur.utils.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

    from laur.optimize.deltas import LowRank

LARGEST = 448.0
"""Of E4M3."""
ROOM = 0.5
"""Part of it that is used."""


def tensors(deltas: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """By kohya's names: lora_down, lora_up and alpha for each canonical layer of the UNet, in 8 bits."""
    import torch

    found: dict[str, Tensor] = {}
    for layer, delta in deltas.items():
        up, down, scale = delta.up.float(), delta.down.float(), delta.scale
        even = math.sqrt(_top(down) / _top(up))
        up, down = up * even, down / even
        shrunk = 1.0
        name = "lora_unet_" + layer.removeprefix("unet.").replace(".", "_")
        for role, factor in (("up", up), ("down", down)):
            power = 2.0 ** math.floor(math.log2(LARGEST * ROOM / _top(factor)))
            shrunk *= power
            found[f"{name}.lora_{role}.weight"] = (factor * power).to(torch.float8_e4m3fn).contiguous()
        found[f"{name}.alpha"] = torch.tensor(scale * delta.rank / shrunk, dtype=torch.float32)
    return found


def write(deltas: Mapping[str, LowRank], path: Path, metadata: Mapping[str, str]) -> None:
    """The file, whole or not at all."""
    from safetensors.torch import save

    atomic_write(path, save(tensors(deltas), metadata=dict(metadata)))


def _top(factor: Tensor) -> float:
    return max(float(factor.abs().max()), 1e-12)
