"""What a row's adapters add to the layers of a network, as low-rank factors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

BUCKETS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Ranks that factors are padded to, so that rows of nearly the same rank share one product."""


def bucket(rank: int) -> int:
    """The least padded rank that holds `rank`."""
    return next((size for size in BUCKETS if size >= rank), rank)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """One layer's difference, up · down; an adapter's weight and alpha / rank are multiplied in already."""

    up: Tensor
    """(out, R)."""
    down: Tensor
    """(R, in), or (R, in, kernel height, kernel width) for a convolution larger than 1x1."""

    @property
    def rank(self) -> int:
        """R."""
        return self.down.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.up.nbytes + self.down.nbytes


def joined(parts: Sequence[Factors]) -> Factors:
    """The sum of several differences: their factors side by side. Exact; ranks add up."""
    if len(parts) == 1:
        return parts[0]
    return Factors(torch.cat([part.up for part in parts], 1), torch.cat([part.down for part in parts]))


class RowSet:
    """All that one row adds to a network's layers. Made once, shared by every row with these adapters and weights.

    Compared by identity: equal rows are batched together only where they hold the same RowSet.
    """

    def __init__(self, layers: Mapping[str, Factors], key: Hashable = None) -> None:
        """`layers` by the module's name within the network ("conv_in", not "unet.conv_in"); `key` names its content."""
        self.layers = dict(layers)
        self.key: Hashable = id(self) if key is None else key
        self._derived: dict[Hashable, tuple[object, int]] = {}
        self.nbytes = sum(factors.nbytes for factors in self.layers.values())
        """Memory that it holds, with what networks derived from it and left here."""

    def derived(self, key: Hashable) -> object | None:
        """What a network packed from these factors, and left here to live and die with them."""
        found = self._derived.get(key)
        return None if found is None else found[0]

    def keep(self, key: Hashable, value: T, nbytes: int) -> T:
        """Leave something derived; gives it back."""
        before = self._derived.pop(key, None)
        self.nbytes += nbytes - (0 if before is None else before[1])
        self._derived[key] = value, nbytes
        return value

    def touches(self, names: Sequence[str]) -> bool:
        """Whether any of these layers changes."""
        return any(name in self.layers for name in names)


@dataclass(frozen=True, slots=True)
class Fused:
    """How several layers of one input lie in one product: their outputs side by side, each scaled, some rows kept."""

    names: tuple[str, ...]
    widths: tuple[int, ...]
    """Outputs of each."""
    scales: tuple[float, ...]
    start: int = 0
    stop: int | None = None

    @classmethod
    def single(cls, name: str, width: int) -> Fused:
        """One layer, as it is."""
        return cls((name,), (width,), (1.0,))

    def of(self, rows: RowSet) -> Factors | None:
        """The set's factors for this product, (kept outputs, R) and (R, in); None where it changes none of them."""
        present = [name for name in self.names if name in rows.layers]
        if not present:
            return None
        known = rows.derived(self)
        if isinstance(known, Factors):
            return known
        if len(self.names) == 1 and self.scales == (1.0,) and (self.start, self.stop) == (0, None):
            factors = rows.layers[present[0]]
            return Factors(factors.up, factors.down.flatten(1))
        made = self._block_diagonal(rows, present)
        return rows.keep(self, made, made.nbytes)

    def _block_diagonal(self, rows: RowSet, present: list[str]) -> Factors:
        downs = [rows.layers[name].down.flatten(1) for name in present]
        up = downs[0].new_zeros(sum(self.widths), sum(down.shape[0] for down in downs))
        top = left = 0
        for name, width, scale in zip(self.names, self.widths, self.scales, strict=True):
            if name in rows.layers:
                part = rows.layers[name].up
                up[top : top + width, left : left + part.shape[1]] = part * scale
                left += part.shape[1]
            top += width
        return Factors(up[self.start : self.stop].contiguous(), torch.cat(downs))
