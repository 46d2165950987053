"""What a timestep adds to each residual block.

A plain UNet projects the time embedding in every block of every step: 22 small products for `mini`. Here they are one,
and a timestep's result is kept, because a sampler visits the same few timesteps for every picture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from laur.core.pytorch.cpu.linear import PackedLinear
from laur.core.pytorch.cpu.weights import Weights
from laur.core.pytorch.rows.product import add_linear

_KEPT = 256
"""Timesteps, and as many batches of them."""


class TimeShifts:
    """The embedding of timesteps, and its projection for each residual block."""

    def __init__(self, weights: Weights, names: Sequence[str], widths: Sequence[int], dtype: torch.dtype) -> None:
        """`names` are the blocks' `time_emb_proj`, `widths` their outputs."""
        self._weights, self._widths, self._dtype = weights, list(widths), dtype
        self._project = PackedLinear(weights, names, dtype) if names else None
        self._names = tuple(names)
        self._rows: OrderedDict[float, tuple[Tensor, Tensor]] = OrderedDict()
        self._batches: OrderedDict[tuple[float, ...], tuple[Tensor, list[Tensor]]] = OrderedDict()

    def clear(self) -> None:
        """The weights changed."""
        self._rows.clear()
        self._batches.clear()

    def __call__(
        self, timesteps: Tensor, added_cond: Mapping[str, Tensor] | None, timestep_cond: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The embedding (N, E) and a float32 (N, C) for each block, with what the rows' adapters change in these."""
        batch = self._weights.rows
        self._weights.rows = None  # what is kept here is kept for all rows
        try:
            emb, shifts = self._shared(timesteps, added_cond, timestep_cond)
        finally:
            self._weights.rows = batch
        if batch is None or self._project is None or not batch.touches(self._names):
            return emb, shifts
        whole = torch.cat(shifts, 1)[:, None]  # a copy: the others' stay as they are
        groups = batch.groups(self._project.fused)
        changed = add_linear(whole.to(self._dtype), functional.silu(emb)[:, None], groups)
        return emb, list(changed[:, 0].float().split(self._widths, 1))

    def _shared(
        self, timesteps: Tensor, added_cond: Mapping[str, Tensor] | None, timestep_cond: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        if added_cond is not None or timestep_cond is not None:  # also a function of the prompt: not worth keeping
            emb, shifts = self._compute(timesteps, added_cond, timestep_cond)
            return emb, list(shifts.split(self._widths, 1))
        key = tuple(float(t) for t in timesteps.tolist())
        if key not in self._batches:
            rows = [self._row(t, timesteps) for t in key]
            emb, shifts = (torch.cat(parts) for parts in zip(*rows, strict=True))
            self._batches[key] = emb, list(shifts.split(self._widths, 1))
            if len(self._batches) > _KEPT:
                self._batches.popitem(last=False)
        return self._batches[key]

    def _row(self, t: float, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        if t not in self._rows:
            self._rows[t] = self._compute(timesteps.new_tensor([t]), None, None)
            if len(self._rows) > _KEPT:
                self._rows.popitem(last=False)
        return self._rows[t]

    def _compute(
        self, timesteps: Tensor, added_cond: Mapping[str, Tensor] | None, timestep_cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """With the UNet's own embedding layers; they are small."""
        unet = cast("Any", self._weights.module)
        dtype = unet.time_embedding.linear_1.weight.dtype
        condition = None if timestep_cond is None else timestep_cond.to(dtype)
        sample = torch.empty(timesteps.shape[0], dtype=dtype)
        emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timesteps), condition)
        if added_cond is not None and unet.config.addition_embed_type == "text_time":
            emb = emb + unet.get_aug_embed(emb=emb, encoder_hidden_states=emb, added_cond_kwargs=dict(added_cond))
        emb = emb.to(self._dtype)
        shifts = emb[:, :0] if self._project is None else self._project(functional.silu(emb))
        return emb, shifts.float()
