"""The walk through a UNet2DConditionModel's blocks, each one fast where its kind is known."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from laur.core.pytorch.cpu.attention import CrossAttention, Transformer
from laur.core.pytorch.cpu.build import PlainTransformer, build_transformer, is_known_transformer
from laur.core.pytorch.cpu.context import ContextCache, KeyValue
from laur.core.pytorch.cpu.interface import Network, PlainUNet
from laur.core.pytorch.cpu.norm import GroupNormSiLU
from laur.core.pytorch.cpu.packed import PackedConv
from laur.core.pytorch.cpu.resample import OutputConv, UpsampleConv
from laur.core.pytorch.cpu.resnet import PlainResnet, Resnet, is_known_resnet
from laur.core.pytorch.cpu.support import supported
from laur.core.pytorch.cpu.time import TimeShifts
from laur.core.pytorch.cpu.weights import Weights
from laur.core.pytorch.rows.batch import RowBatch, RowBatches
from laur.core.pytorch.rows.factors import RowSet
from laur.utils.budget import Budget

_MASKED = -10000.0
"""diffusers' additive mask; exp of it is zero in every dtype."""


def accelerate(unet: nn.Module, dtype: torch.dtype | None = None) -> Network:
    """A UNet2DConditionModel behind the Network interface, as fast as this machine allows.

    Args:
        unet: weights merged, in eval mode. It is shared, never written to; keep it unchanged while the result lives.
        dtype: what to compute in, by default the UNet's own. From float32 weights, bfloat16 is rounded once.

    Returns:
        The fast network on a CPU with the operators it needs, else the plain module behind the same interface.
    """
    parameter = next(unet.parameters())
    dtype = dtype or parameter.dtype
    if parameter.device.type == "cpu" and supported(dtype) and is_known_unet(unet):
        return FastUNet(unet, dtype)
    return PlainUNet(unet if dtype is parameter.dtype else copy.deepcopy(unet).to(dtype=dtype))


def is_known_unet(unet: nn.Module) -> bool:
    """Whether the walk below is this network's forward; single layers of unknown kinds are allowed."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.unets import unet_2d_blocks as blocks

    known = {blocks.DownBlock2D, blocks.CrossAttnDownBlock2D, blocks.UpBlock2D, blocks.CrossAttnUpBlock2D}
    mids = {blocks.UNetMidBlock2DCrossAttn, type(None)}
    if type(unet) is not UNet2DConditionModel or unet.training:
        return False
    config: Any = unet.config
    return (
        not config.center_input_sample
        and unet.class_embedding is None
        and unet.encoder_hid_proj is None
        and unet.time_embed_act is None
        and config.addition_embed_type in {None, "text_time"}
        and all(type(block) in known for block in [*unet.down_blocks, *unet.up_blocks])
        and type(unet.mid_block) in mids
        and not any(getattr(block, "b1", None) for block in unet.up_blocks)  # FreeU
        and type(unet.conv_norm_out) is nn.GroupNorm
        and type(unet.conv_act) is nn.SiLU
        and type(unet.conv_in) is nn.Conv2d
        and type(unet.conv_out) is nn.Conv2d
        and unet.conv_out.kernel_size == (3, 3)
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Layer:
    """A residual block, its place among the time shifts, and the transformer behind it, if any."""

    resnet: Resnet | PlainResnet
    shift: int | None
    transformer: Transformer | PlainTransformer | None
    texts: slice
    """Which of the cross-attentions are this transformer's."""


@dataclass(frozen=True, eq=False, slots=True)
class _Inputs:
    """What every layer of one call sees."""

    emb: Tensor
    shifts: list[Tensor]
    texts: list[KeyValue]
    context: Tensor | Sequence[Tensor]
    bias: Tensor | None


class FastUNet:
    """A UNet2DConditionModel with packed weights. See the package for what is gained where."""

    def __init__(self, unet: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._weights = Weights(unet)
        self._timed: list[tuple[str, int]] = []
        self._crosses: list[CrossAttention] = []
        module: Any = unet
        self._conv_in = PackedConv.of(self._weights, "conv_in", module.conv_in, dtype)
        self._down = [self._stage(f"down_blocks.{i}", block) for i, block in enumerate(module.down_blocks)]
        self._shrink = [self._downsample(f"down_blocks.{i}", block) for i, block in enumerate(module.down_blocks)]
        self._mid = [] if module.mid_block is None else self._middle(module.mid_block)
        self._up = [self._stage(f"up_blocks.{i}", block) for i, block in enumerate(module.up_blocks)]
        self._grow = [self._upsample(f"up_blocks.{i}", block) for i, block in enumerate(module.up_blocks)]
        self._norm_out = GroupNormSiLU(self._weights, "conv_norm_out", module.conv_norm_out)
        self._conv_out = OutputConv(self._weights, "conv_out", dtype)
        self._times = TimeShifts(self._weights, [n for n, _ in self._timed], [w for _, w in self._timed], dtype)
        self._contexts = ContextCache(self._project)
        self._batches = RowBatches()

    @property
    def per_row(self) -> frozenset[str]:
        """See Network."""
        return frozenset(self._weights.per_row)

    def share(self, budget: Budget) -> None:
        """See Network."""
        self._contexts.share(budget)

    def rest(self) -> None:
        """See Network."""
        self._contexts.clear()

    def parameters(self) -> Iterable[Tensor]:
        """See Network."""
        return self._weights.module.parameters()

    def __call__(
        self,
        sample: Tensor,
        timesteps: Tensor,
        context: Tensor | Sequence[Tensor],
        *,
        context_mask: Tensor | None = None,
        added_cond: Mapping[str, Tensor] | None = None,
        timestep_cond: Tensor | None = None,
        residuals: Sequence[Tensor] | None = None,
        adapters: Sequence[RowSet | None] | None = None,
    ) -> Tensor:
        """See Network."""
        with torch.inference_mode():  # a tenth less overhead an operator than no_grad
            texts = self._texts([row.to(self.dtype) for row in context], adapters)
            self._weights.rows = None if adapters is None else self._batches.of(adapters)
            try:
                emb, shifts = self._times(timesteps, added_cond, timestep_cond)
                bias = None if context_mask is None else (~context_mask[:, None]).to(self.dtype) * _MASKED
                y = self._forward(sample, _Inputs(emb, shifts, texts, context, bias), residuals)
            finally:
                self._weights.rows = None
        return y.clone()  # an ordinary tensor, that may be written to

    def _texts(self, context: list[Tensor], adapters: Sequence[RowSet | None] | None) -> list[KeyValue]:
        """Keys and values; rows whose adapters leave the projections alone share them."""
        if adapters is None:
            return self._contexts(context)
        names = [name for cross in self._crosses for name in cross.names]
        return self._contexts(context, [rows if rows and rows.touches(names) else None for rows in adapters])

    def _project(self, context: Tensor, rows: RowSet | None) -> list[KeyValue]:
        self._weights.rows = None if rows is None else RowBatch([rows])
        try:
            return [cross.project(context) for cross in self._crosses]
        finally:
            self._weights.rows = None

    def _forward(self, sample: Tensor, inputs: _Inputs, residuals: Sequence[Tensor] | None) -> Tensor:
        x = sample.to(self.dtype).contiguous(memory_format=torch.channels_last)
        x, skips = self._descend(self._conv_in(x), inputs)
        if residuals is not None and len(residuals) != len(skips) + 1:
            raise ValueError(f"{len(residuals)} residuals for {len(skips)} skip connections and the middle block")
        if residuals is not None:
            skips = [_plus(skip, residual) for skip, residual in zip(skips, residuals, strict=False)]
        x = self._run(self._mid, x, inputs)
        x = x if residuals is None else _plus(x, residuals[-1])
        x = self._ascend(x.contiguous(memory_format=torch.channels_last), skips, inputs)
        return self._conv_out(self._norm_out(x)).to(sample.dtype)

    def load(self, changed: Mapping[str, Tensor]) -> None:
        """See Network."""
        if self._weights.load(changed):
            self._times.clear()
            self._contexts.clear()
            self._batches.clear()

    def _descend(self, x: Tensor, inputs: _Inputs) -> tuple[Tensor, list[Tensor]]:
        skips = [x]
        for layers, shrink in zip(self._down, self._shrink, strict=True):
            for layer in layers:
                x = self._run([layer], x, inputs)
                skips.append(x)
            if shrink is not None:
                x = shrink(x)
                skips.append(x)
        return x, skips

    def _ascend(self, x: Tensor, skips: list[Tensor], inputs: _Inputs) -> Tensor:
        for layers, grow in zip(self._up, self._grow, strict=True):
            for layer in layers:
                x = self._run([layer], torch.cat([x, skips.pop()], 1), inputs)
            if grow is not None:
                x = grow(x, (skips[-1].shape[2], skips[-1].shape[3]) if skips else None)
        return x

    @staticmethod
    def _run(layers: list[_Layer], x: Tensor, inputs: _Inputs) -> Tensor:
        for layer in layers:
            x = layer.resnet(x, None if layer.shift is None else inputs.shifts[layer.shift], inputs.emb)
            if isinstance(layer.transformer, Transformer):
                x = layer.transformer(x, inputs.texts[layer.texts], inputs.bias)
            elif layer.transformer is not None:
                x = layer.transformer(x, inputs.context, inputs.bias)
        return x

    def _stage(self, name: str, block: Any) -> list[_Layer]:
        transformers: Sequence[Any] = getattr(block, "attentions", None) or [None] * len(block.resnets)
        return [
            self._layer(f"{name}.resnets.{i}", resnet, f"{name}.attentions.{i}", transformer)
            for i, (resnet, transformer) in enumerate(zip(block.resnets, transformers, strict=True))
        ]

    def _middle(self, block: Any) -> list[_Layer]:
        """A residual block first, then pairs of transformer and residual block."""
        transformers = [*block.attentions, None]
        return [
            self._layer(f"mid_block.resnets.{i}", resnet, f"mid_block.attentions.{i}", transformer)
            for i, (resnet, transformer) in enumerate(zip(block.resnets, transformers, strict=True))
        ]

    def _layer(self, resnet_name: str, resnet: Any, transformer_name: str, transformer: Any) -> _Layer:
        shift = None
        if known := is_known_resnet(resnet):
            shift = len(self._timed)
            self._timed.append((f"{resnet_name}.time_emb_proj", resnet.time_emb_proj.out_features))
        fast = (
            Resnet(self._weights, resnet_name, resnet, self.dtype) if known else PlainResnet(self._weights, resnet_name)
        )
        first = len(self._crosses)
        inner = None
        if transformer is not None and is_known_transformer(transformer):
            inner = build_transformer(self._weights, transformer_name, transformer, self.dtype)
            self._crosses += [block.cross for block in inner.blocks]
        elif transformer is not None:
            inner = PlainTransformer(self._weights, transformer_name)
        return _Layer(fast, shift, inner, slice(first, len(self._crosses)))

    def _downsample(self, name: str, block: Any) -> PackedConv | None:
        if not block.downsamplers:
            return None
        return PackedConv.of(self._weights, f"{name}.downsamplers.0.conv", block.downsamplers[0].conv, self.dtype)

    def _upsample(self, name: str, block: Any) -> UpsampleConv | None:
        return UpsampleConv(self._weights, f"{name}.upsamplers.0.conv", self.dtype) if block.upsamplers else None


def _plus(x: Tensor, residual: Tensor) -> Tensor:
    if residual.shape != x.shape:
        raise ValueError(f"a residual has shape {tuple(residual.shape[1:])} where the network has {tuple(x.shape[1:])}")
    return x + residual.to(x)
