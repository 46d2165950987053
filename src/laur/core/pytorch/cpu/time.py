"""What a timestep adds to each residual block.

A plain UNet projects the time embedding in every block of every step: 22 small products for `mini`. Here they are one,
and a timestep's result is kept, because a sampler visits the same few timesteps for every picture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from laur.core.pytorch.cpu.linear import PackedLinear
from laur.core.pytorch.cpu.weights import Weights
from laur.core.pytorch.rows.batch import RowBatch
from laur.core.pytorch.rows.factors import Factors, RowSet
from laur.core.pytorch.rows.product import add_linear

_KEPT = 256
"""Timesteps, and as many batches of them."""
_KEPT_BY_SET = 16
"""Timesteps of a set of adapters that changes the embedding."""
_EMBEDDINGS = "time_embedding", "add_embedding"


class TimeShifts:
    """The embedding of timesteps, and its projection for each residual block."""

    def __init__(self, weights: Weights, names: Sequence[str], widths: Sequence[int], dtype: torch.dtype) -> None:
        """`names` are the blocks' `time_emb_proj`, `widths` their outputs."""
        self._weights, self._widths, self._dtype = weights, list(widths), dtype
        self._project = PackedLinear(weights, names, dtype) if names else None
        self._names = tuple(names)
        module = weights.module
        self._embedding = [
            f"{part}.{name}"
            for part in _EMBEDDINGS
            for name, layer in getattr(module, part, nn.Identity()).named_modules()
            if type(layer) is nn.Linear
        ]
        weights.per_row.update(self._embedding)
        self._age = 0
        self._rows: OrderedDict[float, tuple[Tensor, Tensor]] = OrderedDict()
        self._batches: OrderedDict[tuple[float, ...], tuple[Tensor, list[Tensor]]] = OrderedDict()

    def clear(self) -> None:
        """The weights changed."""
        self._age += 1
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
            if batch is not None and batch.touches(self._embedding):
                emb, shifts = self._by_row((emb, shifts), batch, timesteps, added_cond, timestep_cond)
        finally:
            self._weights.rows = batch
        if batch is None or self._project is None or not batch.touches(self._names):
            return emb, shifts
        whole = torch.cat(shifts, 1)[:, None]  # a copy: the others' stay as they are
        groups = batch.groups(self._project.fused)
        changed = add_linear(whole.to(self._dtype), functional.silu(emb)[:, None], groups)
        return emb, list(changed[:, 0].float().split(self._widths, 1))

    def _by_row(
        self,
        shared: tuple[Tensor, list[Tensor]],
        batch: RowBatch,
        timesteps: Tensor,
        added_cond: Mapping[str, Tensor] | None,
        timestep_cond: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Rows whose adapters change the embedding have one of their own, computed alone."""
        emb, whole = shared[0].clone(), torch.cat(shared[1], 1) if shared[1] else shared[0][:, :0].float()
        for run in batch.runs:
            if not run.rows.touches(self._embedding):
                continue
            for place in range(run.start, run.stop):
                one = slice(place, place + 1)
                if added_cond is None and timestep_cond is None:
                    emb[one], whole[one] = self._own(run.rows, float(timesteps[place]), timesteps)
                    continue
                added = None if added_cond is None else {name: value[one] for name, value in added_cond.items()}
                guided = None if timestep_cond is None else timestep_cond[one]
                with self._changed(run.rows):
                    emb[one], whole[one] = self._compute(timesteps[one], added, guided)
        return emb, list(whole.split(self._widths, 1))

    def _own(self, rows: RowSet, t: float, like: Tensor) -> tuple[Tensor, Tensor]:
        """Of a timestep under a set; what was made lives and dies with the set."""
        key = ("timesteps", self._age)
        kept = rows.derived(key, self)
        if not isinstance(kept, OrderedDict):
            width = cast("Any", self._weights.module).time_embedding.linear_2.out_features
            size = _KEPT_BY_SET * (width * self._dtype.itemsize + sum(self._widths) * 4)
            kept = rows.keep(key, OrderedDict[float, tuple[Tensor, Tensor]](), size, self)
        known = cast("OrderedDict[float, tuple[Tensor, Tensor]]", kept)
        if t not in known:
            with self._changed(rows):
                known[t] = self._compute(like.new_tensor([t]), None, None)
            if len(known) > _KEPT_BY_SET:
                known.popitem(last=False)
        return known[t]

    @contextmanager
    def _changed(self, rows: RowSet) -> Generator[None]:
        """While it lasts, the embedding's layers add what a set says."""
        found = {name: rows.layers[name] for name in self._embedding if name in rows.layers}
        module = self._weights.module
        handles = [module.get_submodule(name).register_forward_hook(_adding(own)) for name, own in found.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

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


def _adding(factors: Factors) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    def hook(layer: nn.Module, inputs: tuple[Any, ...], y: Any) -> Any:
        x = cast("Tensor", inputs[0])
        return y + functional.linear(functional.linear(x, factors.down.to(x.dtype)), factors.up.to(x.dtype))

    return hook
