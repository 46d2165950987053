"""The adapter product over several processes, partitioned with its base layer (S-LoRA, arXiv 2311.03285, section 6).

A pair of layers in Megatron's manner (arXiv 1909.08053): the first is split by columns of its output, the second by
columns of its input, and one all-reduce ends the pair. The adapters are cut so that what they send is of rank r, not of
width h:

- first layer: A and B both by their output. x A is all-gathered, (N, L, r), then each process adds its own slice of B.
- second layer: A by its input, B by its output. The partial x A is all-reduced, (N, L, r); each process adds the slice
  of B for its own columns of the output, and the base's all-reduce joins these with the rest: nothing more is sent.

So adapters send two small messages for each pair where the base sends one large.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from laur.core.pytorch.rows.batch import Group, RowBatch
from laur.core.pytorch.rows.factors import Factors, Fused, RowSet


@dataclass(slots=True)
class Sent:
    """Bytes that each process handed to collective operations."""

    base: int = 0
    adapters: int = 0


@dataclass(slots=True)
class Ranks:
    """This process among those that share a layer."""

    rank: int
    size: int
    sent: Sent = field(default_factory=Sent)

    @classmethod
    def here(cls) -> Ranks:
        """Of the default process group."""
        return cls(dist.get_rank(), dist.get_world_size())

    def cut(self, width: int) -> slice:
        """This process's share of `width`, which must divide evenly."""
        if width % self.size:
            raise ValueError(f"{width} cannot be shared evenly by {self.size} processes")
        part = width // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def add_up(self, tensor: Tensor, *, adapters: bool) -> Tensor:
        """The sum over all processes, in place."""
        self._count(tensor, adapters)
        dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The last dimension's shares, side by side."""
        self._count(tensor, adapters=True)
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, -1)

    def _count(self, tensor: Tensor, adapters: bool) -> None:
        if adapters:
            self.sent.adapters += tensor.nbytes
        else:
            self.sent.base += tensor.nbytes


class ColumnParallel:
    """x W + B (A x), W split by its output: (N, L, in) whole to (N, L, out / processes)."""

    def __init__(self, ranks: Ranks, name: str, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` (out, in) and `bias` are whole; only this process's share is kept."""
        self._ranks, self._out = ranks, ranks.cut(weight.shape[0])
        self._fused = Fused.single(name, weight.shape[0])
        self._weight = weight[self._out].clone()
        self._bias = None if bias is None else bias[self._out].clone()

    def __call__(self, x: Tensor, batch: RowBatch) -> Tensor:
        """Rows as in `batch`."""
        y = functional.linear(x, self._weight, self._bias)
        for group in batch.groups(self._fused):
            down = group.down[:, :, self._ranks.cut(group.down.shape[2])]
            low = self._ranks.gather(torch.bmm(_tokens(x, group), down))
            _add(y, low, group, group.up[:, :, self._out])
        return y


class RowParallel:
    """x W + B (A x), W split by its input: (N, L, in / processes) to (N, L, out), whole on every process."""

    def __init__(self, ranks: Ranks, name: str, weight: Tensor, bias: Tensor | None = None) -> None:
        """As of ColumnParallel."""
        self._ranks, self._in = ranks, ranks.cut(weight.shape[1])
        self._out = ranks.cut(weight.shape[0])
        self._fused = Fused.single(name, weight.shape[0])
        self._weight, self._bias = weight[:, self._in].clone(), bias

    def __call__(self, x: Tensor, batch: RowBatch) -> Tensor:
        """Rows as in `batch`; `x` is this process's share of each."""
        y = functional.linear(x, self._weight)
        for group in batch.groups(self._fused):
            low = torch.bmm(_tokens(x, group), group.down[:, self._in])
            low = self._ranks.add_up(low, adapters=True)
            _add(y[..., self._out], low, group, group.up[:, :, self._out])
        y = self._ranks.add_up(y, adapters=False)
        return y if self._bias is None else y + self._bias


def share(rows: RowSet, name: str, ranks: Ranks, *, by_input: bool) -> Factors:
    """What one process needs to hold of a set's layer: for a store that keeps no more than that.

    Of a layer split by its output: slices of A's rank and of B's output; by its input: slices of A's input and of B's
    output. Its rank must divide evenly: pad it first.
    """
    factors = rows.layers[name]
    up = factors.up[ranks.cut(factors.up.shape[0])]
    inner = factors.down.flatten(1)
    down = inner[:, ranks.cut(inner.shape[1])] if by_input else inner[ranks.cut(factors.rank)]
    return Factors(up, down)


def _tokens(x: Tensor, group: Group) -> Tensor:
    part = x[group.start : group.stop]
    return part.reshape(group.down.shape[0], -1, x.shape[2])


def _add(y: Tensor, low: Tensor, group: Group, up: Tensor) -> None:
    part = y[group.start : group.stop]
    part += torch.bmm(low, up).view(part.shape)
