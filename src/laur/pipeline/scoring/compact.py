"""Weights in 8 bits: each output channel of a matrix over its own scale; vectors in half precision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_SCALE = ".scale"


def squeezed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """int8 and float16 in place of float32; the loss is at most half a 127th of a channel's largest weight."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.ndim < 2:
            found[name] = tensor.half() if tensor.is_floating_point() else tensor
            continue
        scale = (tensor.abs().flatten(1).amax(1) / 127).clamp(min=1e-8).half()
        rounded = (tensor.flatten(1) / scale.float()[:, None]).round().clamp(-127, 127)
        found[name] = rounded.to(torch.int8).reshape(tensor.shape)
        found[name + _SCALE] = scale
    return found


def restored(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float32 from what `squeezed` gave."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(_SCALE):
            continue
        scale = weights.get(name + _SCALE)
        if scale is None:
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
        else:
            found[name] = (tensor.flatten(1).float() * scale.float()[:, None]).reshape(tensor.shape)
    return found
