"""The decoders of AutoencoderTiny and AutoencoderKL."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from laur.core.pytorch.cpu.norm import GroupNormSiLU
from laur.core.pytorch.cpu.packed import PackedConv
from laur.core.pytorch.cpu.resample import OutputConv, UpsampleConv
from laur.core.pytorch.cpu.resnet import PlainResnet, Resnet, is_known_resnet
from laur.core.pytorch.cpu.support import supported
from laur.core.pytorch.cpu.weights import Weights

Decode: TypeAlias = Callable[[Tensor], Tensor]
"""(N, C, h, w) latents, as the autoencoder's `decode` takes them, to (N, 3, H, W) float32, about -1 … 1."""


def accelerate_decoder(vae: nn.Module, dtype: torch.dtype | None = None) -> Decode:
    """An autoencoder's `decode`, as fast as this machine allows.

    Args:
        vae: AutoencoderTiny or AutoencoderKL in eval mode; shared, never written to. Any other runs as it is.
        dtype: what to compute in, by default the autoencoder's own.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny

    parameter = next(vae.parameters())
    dtype = dtype or parameter.dtype
    if parameter.device.type == "cpu" and supported(dtype) and not vae.training:
        if type(vae) is AutoencoderTiny and _is_known_tiny(vae):
            return _TinyDecoder(vae, dtype)
        if type(vae) is AutoencoderKL and _is_known_kl(vae):
            return _KLDecoder(vae, dtype)
    module: Any = vae
    return _plain(module if dtype is parameter.dtype else copy.deepcopy(module).to(dtype=dtype), dtype)


def _plain(vae: Any, dtype: torch.dtype) -> Decode:
    def decode(latents: Tensor) -> Tensor:
        with torch.no_grad():
            return vae.decode(latents.to(dtype), return_dict=False)[0].float()

    return decode


def _is_known_tiny(vae: Any) -> bool:
    """Convolutions, ReLU, residual blocks and nearest upsampling by two, each followed by a 3x3 convolution."""
    from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock

    layers = list(vae.decoder.layers)
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if type(layer) is nn.Upsample:
            known = layer.mode == "nearest" and layer.scale_factor == 2.0 and type(after) is nn.Conv2d
        elif type(layer) is AutoencoderTinyBlock:
            known = type(layer.skip) is nn.Identity and type(layer.conv[1]) is nn.ReLU
        else:
            known = type(layer) is nn.ReLU or (type(layer) is nn.Conv2d and layer.kernel_size == (3, 3))
        if not known:
            return False
    return type(layers[-1]) is nn.Conv2d


class _TinyBlock:
    """Three convolutions and the input, then ReLU, fused. Overwrites its input."""

    def __init__(self, weights: Weights, name: str, block: Any, dtype: torch.dtype) -> None:
        self._convs = [PackedConv.of(weights, f"{name}.conv.{i}", block.conv[i], dtype) for i in (0, 2, 4)]

    def __call__(self, x: Tensor) -> Tensor:
        first, second, third = self._convs
        return third(second(first(x, activation="relu"), activation="relu"), activation="relu", into=x)


class _TinyDecoder:
    """AutoencoderTiny."""

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._weights = Weights(vae)
        layers = list(vae.decoder.layers)
        self._steps: list[Callable[[Tensor], Tensor]] = []
        for i, layer in enumerate(layers[:-1]):
            step = self._step(f"decoder.layers.{i}", i, layers, dtype)
            if step is not None and layer is not None:
                self._steps.append(step)
        self._out = OutputConv(self._weights, f"decoder.layers.{len(layers) - 1}", dtype)

    def _step(self, name: str, i: int, layers: list[Any], dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        layer = layers[i]
        if type(layer) is nn.Upsample:
            return UpsampleConv(self._weights, f"decoder.layers.{i + 1}", dtype)
        if type(layer) is nn.ReLU or (i and type(layers[i - 1]) is nn.Upsample):
            return None  # joined to the layer before
        if type(layer) is nn.Conv2d:
            conv = PackedConv.of(self._weights, name, layer, dtype)
            activation = "relu" if type(layers[i + 1]) is nn.ReLU else "none"
            return lambda x: conv(x, activation=activation)
        return _TinyBlock(self._weights, name, layer, dtype)

    def __call__(self, latents: Tensor) -> Tensor:
        """One picture at a time: a map of eight does not fit the cache (8 at 256 px: 1.42 s together, 1.26 so)."""
        with torch.inference_mode():
            pictures = [self._one(row) for row in latents.split(1)]
        return torch.cat(pictures)

    def _one(self, latents: Tensor) -> Tensor:
        x = (torch.tanh(latents.float() / 3) * 3).to(self._dtype).contiguous(memory_format=torch.channels_last)
        for step in self._steps:
            x = step(x)
        return self._out(x).float().mul_(2).sub_(1)


def _is_known_kl(vae: Any) -> bool:
    from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, UpDecoderBlock2D

    decoder = vae.decoder
    return (
        type(decoder.mid_block) is UNetMidBlock2D
        and all(type(block) is UpDecoderBlock2D for block in decoder.up_blocks)
        and type(decoder.conv_norm_out) is nn.GroupNorm
        and type(decoder.conv_out) is nn.Conv2d
    )


class _KLDecoder:
    """AutoencoderKL: residual blocks without time; the one attention of the middle runs as it is."""

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        self._weights, self._dtype, self._vae = Weights(vae), dtype, vae
        decoder = vae.decoder
        self._in = PackedConv.of(self._weights, "decoder.conv_in", decoder.conv_in, dtype)
        self._mid = self._resnets("decoder.mid_block", decoder.mid_block)
        self._up = [self._resnets(f"decoder.up_blocks.{i}", block) for i, block in enumerate(decoder.up_blocks)]
        self._grow = [
            UpsampleConv(self._weights, f"decoder.up_blocks.{i}.upsamplers.0.conv", dtype) if block.upsamplers else None
            for i, block in enumerate(decoder.up_blocks)
        ]
        self._norm = GroupNormSiLU(self._weights, "decoder.conv_norm_out", decoder.conv_norm_out)
        self._out = OutputConv(self._weights, "decoder.conv_out", dtype)

    def _resnets(self, name: str, block: Any) -> list[Resnet | PlainResnet]:
        return [
            Resnet(self._weights, f"{name}.resnets.{i}", resnet, self._dtype)
            if is_known_resnet(resnet)
            else PlainResnet(self._weights, f"{name}.resnets.{i}")
            for i, resnet in enumerate(block.resnets)
        ]

    def __call__(self, latents: Tensor) -> Tensor:
        """One picture at a time, as for the tiny decoder."""
        with torch.inference_mode():
            pictures = [self._one(row) for row in latents.split(1)]
        return torch.cat(pictures)

    def _one(self, latents: Tensor) -> Tensor:
        own = next(self._vae.parameters()).dtype
        z = latents.to(own)
        z = z if self._vae.post_quant_conv is None else self._vae.post_quant_conv(z)
        x = self._in(z.to(self._dtype).contiguous(memory_format=torch.channels_last))
        x = self._mid[0](x, None, None)
        for attention, resnet in zip(self._vae.decoder.mid_block.attentions, self._mid[1:], strict=True):
            x = x if attention is None else attention(x.to(own)).to(self._dtype)
            x = resnet(x.contiguous(memory_format=torch.channels_last), None, None)
        for resnets, grow in zip(self._up, self._grow, strict=True):
            for resnet in resnets:
                x = resnet(x, None, None)
            x = x if grow is None else grow(x)
        return self._out(self._norm(x)).float()
