"""Merging: W' = W + Σ weight · Δ(W), computed in float32 from the base weights, which never change.

Taking an adapter away is therefore going back to the base tensors themselves, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laur.core.errors import MismatchError
from laur.optimize.layers import LayerShape

if TYPE_CHECKING:
    from laur.optimize.deltas import Delta


def layer_shapes(module: torch.nn.Module, prefix: str) -> dict[str, LayerShape]:
    """Linear and convolutional layers of `module` by canonical name, that is `prefix`, a dot and the module's name.

    Works on the meta device too: nothing but shapes is looked at.
    """
    modules: Iterator[tuple[str, torch.nn.Module]] = module.named_modules()
    return {
        f"{prefix}.{name}": LayerShape(tuple(layer.weight.shape), getattr(layer, "groups", 1))
        for name, layer in modules
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    }


@torch.no_grad()
def merged_state(
    base: Mapping[str, Tensor],
    deltas: Sequence[tuple[Mapping[str, Delta], float]],
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """New tensors for the touched weights alone, in `dtype` and in the base's memory format, on its device.

    `base` holds parameters by canonical name ("unet.conv_in.weight"); deltas go by layer ("unet.conv_in"), each set
    with its adapter's weight. A weight of 0 touches nothing. Raises MismatchError where a delta does not fit.
    """
    wanted: dict[str, list[tuple[Delta, float]]] = {}
    for found, weight in deltas:
        for layer, delta in found.items():
            if weight:
                tensor = base.get(f"{layer}.weight")
                if tensor is None:
                    raise MismatchError(
                        f"an adapter changes {layer}, which this model does not have; see `laur inspect`"
                    )
                delta.check(layer, LayerShape(tuple(tensor.shape)))
                wanted.setdefault(layer, []).append((delta, weight))
    scratch = _Scratch(base[f"{layer}.weight"].numel() for layer in wanted)
    return {f"{layer}.weight": _merged(base[f"{layer}.weight"], sums, dtype, scratch) for layer, sums in wanted.items()}


class _Scratch:
    """One float32 buffer for all layers: fresh pages for each would cost as much as the arithmetic."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self._size = max(sizes, default=0)
        self._buffers: dict[torch.device, Tensor] = {}

    def like(self, tensor: Tensor) -> Tensor:
        """A contiguous float32 tensor of that shape; its content is whatever was there."""
        buffer = self._buffers.get(tensor.device)
        if buffer is None:
            buffer = self._buffers[tensor.device] = torch.empty(self._size, device=tensor.device)
        return buffer[: tensor.numel()].view(tensor.shape)


def _merged(base: Tensor, sums: list[tuple[Delta, float]], dtype: torch.dtype, scratch: _Scratch) -> Tensor:
    total = scratch.like(base).copy_(base)
    for delta, weight in sums:
        delta.add_to(total, base, weight)
    return torch.empty_like(base, dtype=dtype, requires_grad=False).copy_(total)
