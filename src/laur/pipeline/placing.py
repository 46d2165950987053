"""Copies of networks on a device and in a precision, which share with the original whatever needs no conversion."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from laur.core.plan import AdapterUse
    from laur.core.pytorch.denoiser import TorchDenoiser
    from laur.input.text import TextEncoder
    from laur.optimize.deltas import Delta
    from laur.pipeline.device import Placement


def placed_copy(module: nn.Module, prefix: str, changed: Mapping[str, Tensor], place: Placement) -> nn.Module:
    """A copy of the module on a device and in a dtype, with some weights taken from `changed`.

    What needs no conversion is shared with the original, which is never written to.
    """
    from torch import nn

    memo: dict[int, Any] = {}
    for name, tensor in module.named_parameters():
        weight = changed.get(f"{prefix}.{name}", tensor.detach())
        memo[id(tensor)] = nn.Parameter(_placed(weight, place), requires_grad=False)
    for tensor in module.buffers():
        memo[id(tensor)] = _placed(tensor, place)
    return copy.deepcopy(module, memo).eval()


def _placed(tensor: Tensor, place: Placement) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.to(place.device)
    memory_format = _memory_format(place.channels_last and tensor.ndim == 4)
    return tensor.to(place.device, place.dtype, memory_format=memory_format)


def _memory_format(channels_last: bool) -> Any:
    import torch

    return torch.channels_last if channels_last else torch.preserve_format


def of_components(deltas: Mapping[str, Delta], components: Container[str]) -> dict[str, Delta]:
    """The deltas of these components of a pipeline ("unet", "text_encoder")."""
    return {name: delta for name, delta in deltas.items() if name.partition(".")[0] in components}


def of_text(use: AdapterUse) -> AdapterUse:
    """What of an adapter's weights by block counts in text encoders, so that others share their states."""
    if use.by_block is None:
        return use
    by_block = tuple((name, factor) for name, factor in use.by_block if not name.startswith("unet"))
    return replace(use, by_block=by_block or None)


def denoiser_bytes(denoiser: TorchDenoiser) -> int:
    """What a placed network takes, about: on a CPU its weights lie packed beside the originals."""
    total = sum(tensor.nbytes for tensor in denoiser.network.parameters())
    return 2 * total if denoiser.device.type == "cpu" else total


def encoder_bytes(encoder: TextEncoder) -> int:
    """What placed text networks take."""
    return sum(tensor.nbytes for part in encoder.parts for tensor in part.model.parameters())
