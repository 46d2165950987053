"""From diffusers' transformer modules to the fast ones, where every part is of a known kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from laur.core.pytorch.cpu.attention import (
    GEGLU,
    CrossAttention,
    LayerNorm,
    SelfAttention,
    Transformer,
    TransformerBlock,
)
from laur.core.pytorch.cpu.linear import PackedLinear
from laur.core.pytorch.cpu.norm import GroupNormSiLU
from laur.core.pytorch.cpu.weights import Weights


def is_known_attention(module: Any) -> bool:
    """Whether the attention is plain: softmax(q k) v, with no norms, extra tokens or processor of its own."""
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    absent = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
    return (
        type(module) is Attention
        and type(module.processor) in {AttnProcessor, AttnProcessor2_0}
        and all(getattr(module, name, None) is None for name in absent)
        and not module.fused_projections
        and not module.residual_connection
        and not module.is_causal
        and module.rescale_output_factor == 1.0
        and module.inner_kv_dim == module.inner_dim
        and all(type(layer) is nn.Linear for layer in (module.to_q, module.to_k, module.to_v))
        and module.to_out is not None
        and type(module.to_out[0]) is nn.Linear
    )


def is_known_block(module: Any) -> bool:
    """Whether a transformer block is self-attention, cross-attention and GEGLU, each behind a LayerNorm."""
    from diffusers.models import activations
    from diffusers.models.attention import BasicTransformerBlock

    return (
        type(module) is BasicTransformerBlock
        and module.norm_type == "layer_norm"
        and module.pos_embed is None
        and not module.only_cross_attention
        and module.attn2 is not None
        and module.attn2.is_cross_attention
        and not hasattr(module, "fuser")
        and is_known_attention(module.attn1)
        and is_known_attention(module.attn2)
        and all(type(norm) is nn.LayerNorm for norm in (module.norm1, module.norm2, module.norm3))
        and type(module.ff.net[0]) is activations.GEGLU
        and type(module.ff.net[0].proj) is nn.Linear
        and type(module.ff.net[2]) is nn.Linear
    )


def is_known_transformer(module: Any) -> bool:
    """Whether a Transformer2DModel works on a map and consists of known blocks."""
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    return (
        type(module) is Transformer2DModel
        and module.is_input_continuous
        and type(module.norm) is nn.GroupNorm
        and type(module.proj_in) in {nn.Linear, nn.Conv2d}
        and type(module.proj_out) in {nn.Linear, nn.Conv2d}
        and all(is_known_block(block) for block in module.transformer_blocks)
    )


def build_transformer(weights: Weights, name: str, module: Any, dtype: torch.dtype) -> Transformer:
    """A known Transformer2DModel, fast."""
    blocks = [
        _block(weights, f"{name}.transformer_blocks.{i}", block, dtype)
        for i, block in enumerate(module.transformer_blocks)
    ]
    return Transformer(
        GroupNormSiLU(weights, f"{name}.norm", module.norm, silu=False),
        PackedLinear(weights, [f"{name}.proj_in"], dtype),
        blocks,
        PackedLinear(weights, [f"{name}.proj_out"], dtype),
    )


def _block(weights: Weights, name: str, block: Any, dtype: torch.dtype) -> TransformerBlock:
    norm1, norm2, norm3 = (LayerNorm(weights, f"{name}.norm{i}", getattr(block, f"norm{i}"), dtype) for i in (1, 2, 3))
    return TransformerBlock(
        (norm1, norm2, norm3),
        SelfAttention(weights, f"{name}.attn1", block.attn1.heads, block.attn1.scale, dtype),
        CrossAttention(weights, f"{name}.attn2", block.attn2.heads, block.attn2.scale, dtype),
        GEGLU(weights, f"{name}.ff", block.ff.net[2].in_features, dtype),
    )


class PlainTransformer:
    """A transformer of another kind, as it is."""

    def __init__(self, weights: Weights, name: str) -> None:
        self._weights, self._name = weights, name

    def __call__(self, x: Tensor, context: Tensor | Sequence[Tensor], bias: Tensor | None) -> Tensor:
        """The module's own forward, in its own dtype; `context` is (N, L, D) or N of (L, D)."""
        module = cast("Any", self._weights.module.get_submodule(self._name))
        dtype = next(module.parameters()).dtype
        states = context if isinstance(context, Tensor) else torch.stack(list(context))
        mask = None if bias is None else bias.to(dtype)
        y = module(x.to(dtype), states.to(dtype), encoder_attention_mask=mask, return_dict=False)[0]
        return y.to(x.dtype).contiguous(memory_format=torch.channels_last)
