"""Linears whose weights lie in oneDNN's blocked layout: with bias 1.00 ms in place of 1.19, which is added inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from laur.core.pytorch.cpu.weights import Packed, Weights
from laur.core.pytorch.rows.batch import RowBatch
from laur.core.pytorch.rows.choice import merges
from laur.core.pytorch.rows.factors import Fused, RowSet
from laur.core.pytorch.rows.product import add_linear

_ROWS_HINT = 1024
"""Rows that linears are packed for; measured to be as good as the true number from 64 to 1024."""


class _After(NamedTuple):
    """What follows the product in the same pass."""

    activation: str
    add: Tensor | None
    times: Tensor | None


class PackedLinear(Packed):
    """One or more linears of the same input as one, with an optional activation, product or residual fused."""

    def __init__(
        self,
        weights: Weights,
        names: Sequence[str],
        dtype: torch.dtype,
        *,
        scales: Sequence[float] | None = None,
        rows: slice | None = None,
    ) -> None:
        """Outputs of `names` side by side, each times its scale; `rows` keeps a part of them.

        A 1x1 convolution counts as a linear.
        """
        self._weights, self._names, self._dtype = weights, tuple(names), dtype
        self._scales, self._rows = tuple(scales or (1.0,) * len(self._names)), rows or slice(None)
        self._packed: Tensor | None = None
        self._bias: Tensor | None = None
        self._age = 0
        weights.watch(self, [f"{name}.{leaf}" for name in self._names for leaf in ("weight", "bias")])
        weights.per_row.update(self._names)
        self.fused = Fused(
            self._names,
            tuple(weights[f"{name}.weight"].shape[0] for name in self._names),
            self._scales,
            self._rows.start or 0,
            self._rows.stop,
        )

    def forget(self) -> None:
        """Pack again at the next call."""
        self._packed = None
        self._age += 1

    def __call__(
        self, x: Tensor, *, activation: str = "none", add: Tensor | None = None, times: Tensor | None = None
    ) -> Tensor:
        """(…, out): activation(linear(x)), linear(x) + add or linear(x) · times. `activation` is none or gelu.

        Where rows' adapters change it, x is (N, L, in).
        """
        packed = self._packed if self._packed is not None else self._pack()
        batch = self._weights.rows
        if batch is not None and batch.touches(self._names):
            return self._by_row(x, packed, batch, _After(activation, add, times))
        return self._run(x, packed, activation=activation, add=add, times=times)

    def _by_row(self, x: Tensor, packed: Tensor, batch: RowBatch, after: _After) -> Tensor:
        """As __call__, each row with its own adapters."""
        weight = self._weights[f"{self._names[0]}.weight"]
        if merges(sum(self.fused.widths), weight.shape[1], x.shape[1]):
            return self._merged_rows(x, packed, batch, after)
        spans = batch.spans(self._names, x.shape[0])
        parts: list[Tensor] = []
        for start, stop, changed in spans:  # rows that nothing changes are computed as they are alone, fused
            add, times = (None if t is None else t[start:stop] for t in (after.add, after.times))
            activation, times = ("none", None) if changed else (after.activation, times)
            parts.append(self._run(x[start:stop], packed, activation=activation, add=add, times=times))
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        add_linear(y, x, batch.groups(self.fused))
        for start, stop, changed in spans:
            if changed and after.times is not None:
                y[start:stop].mul_(after.times[start:stop])
            elif changed and after.activation == "gelu":
                torch.ops.aten.gelu_(y[start:stop])
        return y

    def _merged_rows(self, x: Tensor, packed: Tensor, batch: RowBatch, after: _After) -> Tensor:
        parts: list[Tensor] = []
        for start, stop, rows in batch.stretches(self._names, x.shape[0]):
            weight = packed if rows is None else self._merged(rows)
            add, times = (None if t is None else t[start:stop] for t in (after.add, after.times))
            parts.append(self._run(x[start:stop], weight, activation=after.activation, add=add, times=times))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _merged(self, rows: RowSet) -> Tensor:
        key = ("merged", self._age)
        known = rows.derived(key, self)
        if isinstance(known, Tensor):
            return known
        factors = self.fused.of(rows)
        assert factors is not None
        total = torch.addmm(self._joined(torch.float32), factors.up.float(), factors.down.float())
        fresh: Tensor = torch.ops.mkldnn._reorder_linear_weight(total.to(self._dtype), _ROWS_HINT)
        return rows.keep(key, fresh, total.numel() * self._dtype.itemsize, self)

    def _run(
        self,
        x: Tensor,
        packed: Tensor,
        *,
        activation: str = "none",
        add: Tensor | None = None,
        times: Tensor | None = None,
    ) -> Tensor:
        if add is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, add, packed, self._bias, "add")
        if times is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, times, packed, self._bias, "mul")
        return torch.ops.mkldnn._linear_pointwise.default(x, packed, self._bias, activation, [], "none")

    def _pack(self) -> Tensor:
        weight = self._joined(self._dtype)
        self._bias = self._pack_bias(list(self.fused.widths))
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)
        self._packed = packed
        return packed

    def _joined(self, dtype: torch.dtype) -> Tensor:
        """The layers' scaled weights as one matrix."""
        weights = [
            self._scaled(f"{name}.weight", scale, dtype) for name, scale in zip(self._names, self._scales, strict=True)
        ]
        return torch.cat([weight.flatten(1) for weight in weights])[self._rows].contiguous()

    def _pack_bias(self, lengths: list[int]) -> Tensor | None:
        if all(self._weights.get(f"{name}.bias") is None for name in self._names):
            return None
        parts: list[Tensor] = []
        for name, scale, length in zip(self._names, self._scales, lengths, strict=True):
            present = self._weights.get(f"{name}.bias") is not None
            parts.append(
                self._scaled(f"{name}.bias", scale, self._dtype) if present else torch.zeros(length, dtype=self._dtype)
            )
        return torch.cat(parts)[self._rows].contiguous()

    def _scaled(self, name: str, scale: float, dtype: torch.dtype) -> Tensor:
        tensor = self._weights[name]
        return tensor.to(dtype) if scale == 1.0 else (tensor.float() * scale).to(dtype)
