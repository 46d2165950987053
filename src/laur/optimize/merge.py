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

BIAS = ".bias"
"""How the name of a delta ends that changes a layer's bias in place of its weight."""


def layer_shapes(module: torch.nn.Module, prefix: str) -> dict[str, LayerShape]:
    """Linear and convolutional layers of `module` by canonical name, that is `prefix`, a dot and the module's name.

    Works on the meta device too: nothing but shapes is looked at.
    """
    modules: Iterator[tuple[str, torch.nn.Module]] = module.named_modules()
    return {
        f"{prefix}.{name}": LayerShape(tuple(layer.weight.shape), getattr(layer, "groups", 1), layer.bias is not None)
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

    `base` holds parameters by canonical name ("unet.conv_in.weight"); deltas go by layer ("unet.conv_in"), those of
    biases by "unet.conv_in.bias", each set with its adapter's weight. A weight of 0 touches nothing. Raises
    MismatchError where a delta does not fit.
    """
    wanted: dict[str, list[tuple[Delta, float]]] = {}
    for found, weight in deltas:
        for layer, delta in found.items():
            if weight:
                tensor = base.get(parameter_name(layer))
                if tensor is None:
                    raise MismatchError(
                        f"an adapter changes {layer}, which this model does not have; see `laur inspect`"
                    )
                delta.check(layer, LayerShape(tuple(tensor.shape)))
                wanted.setdefault(layer, []).append((delta, weight))
    names = {layer: parameter_name(layer) for layer in wanted}
    scratch = _Scratch(base[name].numel() for name in names.values())
    return {names[layer]: _merged(base[names[layer]], sums, dtype, scratch) for layer, sums in wanted.items()}


def parameter_name(layer: str) -> str:
    """Of the parameter that a delta of that name changes: a layer's weight, or what is named as its bias."""
    return layer if layer.endswith(BIAS) else f"{layer}.weight"


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
