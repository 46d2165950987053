"""Residual blocks: norm, SiLU, convolution, time, norm, SiLU, convolution, shortcut."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from laur.core.pytorch.cpu.norm import GroupNormSiLU
from laur.core.pytorch.cpu.packed import PackedConv
from laur.core.pytorch.cpu.weights import Weights


def is_known_resnet(module: Any) -> bool:
    """Whether the block is the one that Stable Diffusion's UNets and autoencoders are made of."""
    from diffusers.models.resnet import ResnetBlock2D

    return (
        type(module) is ResnetBlock2D
        and module.upsample is None
        and module.downsample is None
        and module.time_embedding_norm == "default"
        and not module.skip_time_act
        and module.output_scale_factor == 1.0
        and type(module.nonlinearity) is nn.SiLU
        and type(module.conv1) is nn.Conv2d
        and type(module.conv2) is nn.Conv2d
        and type(module.norm1) is nn.GroupNorm
        and type(module.norm2) is nn.GroupNorm
        and (module.conv_shortcut is None or type(module.conv_shortcut) is nn.Conv2d)
        and (module.time_emb_proj is None or type(module.time_emb_proj) is nn.Linear)
    )


class Resnet:
    """A residual block; the shortcut is added inside the second convolution."""

    def __init__(self, weights: Weights, name: str, module: Any, dtype: torch.dtype) -> None:
        self._norm1 = GroupNormSiLU(weights, f"{name}.norm1", module.norm1)
        self._norm2 = GroupNormSiLU(weights, f"{name}.norm2", module.norm2)
        self._conv1 = PackedConv.of(weights, f"{name}.conv1", module.conv1, dtype)
        self._conv2 = PackedConv.of(weights, f"{name}.conv2", module.conv2, dtype)
        shortcut = module.conv_shortcut
        self._shortcut = None if shortcut is None else PackedConv.of(weights, f"{name}.conv_shortcut", shortcut, dtype)

    def __call__(self, x: Tensor, shift: Tensor | None, emb: Tensor | None) -> Tensor:
        """(N, C, H, W) channels last; `shift` (N, C) is the block's own projection of the time embedding."""
        h = self._norm2(self._conv1(self._norm1(x)), shift)
        if self._shortcut is None:
            return self._conv2(h, add=x)
        return self._conv2(h, into=self._shortcut(x))


class PlainResnet:
    """A block of another kind, as it is."""

    def __init__(self, weights: Weights, name: str) -> None:
        self._weights, self._name = weights, name

    def __call__(self, x: Tensor, shift: Tensor | None, emb: Tensor | None) -> Tensor:
        """The block's own forward, in its own dtype."""
        module = cast("Any", self._weights.module.get_submodule(self._name))
        dtype = next(module.parameters()).dtype
        y = module(x.to(dtype), None if emb is None else emb.to(dtype))
        return y.to(x.dtype).contiguous(memory_format=torch.channels_last)
