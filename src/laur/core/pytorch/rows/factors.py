"""What a row's adapters add to the layers of a network, as low-rank factors."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

T = TypeVar("T")

_SERIALS = itertools.count(1)

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
        self.serial = next(_SERIALS)
        """Its own and never another's, as an address may be once this is gone."""
        self.key: Hashable = ("row set", self.serial) if key is None else key
        self._own = sum(factors.nbytes for factors in self.layers.values())
        self._derived: dict[Hashable, tuple[object, int]] = {}
        self._of: WeakKeyDictionary[object, dict[Hashable, tuple[object, int]]] = WeakKeyDictionary()

    @property
    def nbytes(self) -> int:
        """Memory that it holds, with what networks derived from it and left here."""
        left = (self._derived, *self._of.values())
        return self._own + sum(nbytes for kept in left for _, nbytes in kept.values())

    def derived(self, key: Hashable, layer: object | None = None) -> object | None:
        """What was packed from these factors, and left here to live and die with them."""
        kept = self._derived if layer is None else self._of.get(layer, {})
        found = kept.get(key)
        return None if found is None else found[0]

    def keep(self, key: Hashable, value: T, nbytes: int, layer: object | None = None) -> T:
        """Leave something derived; gives it back. With a `layer`, whose weights are in it, it dies with that too."""
        kept = self._derived if layer is None else self._of.setdefault(layer, {})
        kept[key] = value, nbytes
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
