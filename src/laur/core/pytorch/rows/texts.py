"""Cross-attention keys and values of diffusers' own modules, once for a text and its adapters, not once a step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from laur.core.pytorch.cpu.context import ContextCache, KeyValue
from laur.core.pytorch.rows.batch import RowBatch
from laur.core.pytorch.rows.factors import Fused, RowSet
from laur.core.pytorch.rows.product import add_linear


class PlainTexts:
    """Stands in for `to_k` and `to_v` of the cross-attentions during a call."""

    def __init__(self, unet: nn.Module) -> None:
        self._unet = unet
        self._names = [] if getattr(unet, "encoder_hid_proj", None) is not None else _cross_attentions(unet)
        self.cache = ContextCache(self._project)

    @contextmanager
    def given(self, states: Tensor, sets: Sequence[RowSet | None] | None) -> Generator[frozenset[str]]:
        """While it lasts, the projections of `states` (N, S, D) come from the cache; yields their names."""
        if not self._names or _watched(self._unet, self._names):
            yield frozenset()
            return
        own = [part for name in self._names for part in (f"{name}.to_k", f"{name}.to_v")]
        rows = None if sets is None else [rows if rows and rows.touches(own) else None for rows in sets]
        pairs = self.cache(list(states), rows)
        layers: list[Any] = []
        try:
            for name, pair in zip(self._names, pairs, strict=True):
                attention: Any = self._unet.get_submodule(name)
                for layer, value in zip((attention.to_k, attention.to_v), pair, strict=True):
                    layer.forward = _constant(value)
                    layers.append(layer)
            yield frozenset(own)
        finally:
            for layer in layers:
                del layer.forward

    def _project(self, context: Tensor, rows: RowSet | None) -> list[KeyValue]:
        batch = None if rows is None else RowBatch([rows])
        return [
            cast("KeyValue", tuple(self._one(f"{name}.{part}", context, batch) for part in ("to_k", "to_v")))
            for name in self._names
        ]

    def _one(self, name: str, context: Tensor, batch: RowBatch | None) -> Tensor:
        layer = cast("nn.Linear", self._unet.get_submodule(name))
        y = nn.functional.linear(context, layer.weight, layer.bias)
        return y if batch is None else add_linear(y, context, batch.groups(Fused.single(name, y.shape[-1])))


def _constant(value: Tensor) -> Any:
    def forward(_: Tensor) -> Tensor:
        return value

    return forward


def _cross_attentions(unet: nn.Module) -> list[str]:
    """Those that project the text as it is."""
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    found: list[str] = []
    for name, module in unet.named_modules():
        attention: Any = module
        if (
            name.endswith("attn2")
            and type(attention) is Attention
            and attention.is_cross_attention
            and type(attention.processor) in {AttnProcessor, AttnProcessor2_0}
            and getattr(attention, "norm_cross", None) is None
            and not attention.fused_projections
            and type(attention.to_k) is nn.Linear
            and type(attention.to_v) is nn.Linear
        ):
            found.append(name)
    return found


def _watched(unet: nn.Module, names: Sequence[str]) -> bool:
    """Whether somebody looks inside or has put in a processor since: then everything is computed, as it is."""
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    attention: Any = unet.get_submodule(names[0])
    hooked = bool(attention.to_k._forward_hooks or attention.to_k._forward_pre_hooks)
    return hooked or type(attention.processor) not in {AttnProcessor, AttnProcessor2_0} or torch.is_grad_enabled()
