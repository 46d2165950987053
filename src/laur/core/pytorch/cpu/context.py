"""Cross-attention keys and values, computed once for a text and not once a step.

Found by content, not by who owns the tensor: a text that is equal gives keys that are equal, whichever request asks and
whatever became of the tensor that it was first seen in. Comparing a row costs about 10 us, computing it about 2 ms.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

KeyValue: TypeAlias = tuple[Tensor, Tensor]
"""(rows · heads, D, S) and (rows · heads, S, D)."""

_BATCHES_KEPT = 2
"""Batches whose rows stay joined: those of the two lanes that step in turn."""


@dataclass(frozen=True, eq=False, slots=True)
class _Entry:
    context: Tensor
    """A copy, so that nobody can write to it."""
    layers: list[KeyValue]
    size: int = field(init=False)
    """Bytes."""

    def __post_init__(self) -> None:
        tensors = [self.context, *(tensor for pair in self.layers for tensor in pair)]
        object.__setattr__(self, "size", sum(tensor.numel() * tensor.element_size() for tensor in tensors))


class ContextCache:
    """Keys and values of recent texts, bounded in bytes."""

    def __init__(self, project: Callable[[Tensor], list[KeyValue]], limit: int = 128 << 20) -> None:
        """`project` maps one row's (1, S, D) to a pair for each cross-attention; `limit` is in bytes."""
        self._project, self._limit, self._size = project, limit, 0
        self._entries: OrderedDict[tuple[tuple[int, ...], float], _Entry] = OrderedDict()
        self._batches: OrderedDict[tuple[int, ...], tuple[list[_Entry], list[KeyValue]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """The weights changed: nothing here is true any more."""
        self._entries.clear()
        self._batches.clear()
        self._size = 0

    def __call__(self, rows: Sequence[Tensor]) -> list[KeyValue]:
        """One pair for each cross-attention, the heads of `rows` one after the other. A row is (S, D)."""
        entries = [self._entry(row) for row in rows]
        if len(entries) == 1:
            return entries[0].layers
        key = tuple(id(entry) for entry in entries)
        if key in self._batches:  # it holds its entries, so no other entry can have their ids
            self._batches.move_to_end(key)
            return self._batches[key][1]
        layers = [
            (torch.cat([k for k, _ in pairs]), torch.cat([v for _, v in pairs]))
            for pairs in zip(*(entry.layers for entry in entries), strict=True)
        ]
        self._batches[key] = entries, layers
        while len(self._batches) > _BATCHES_KEPT:
            self._batches.popitem(last=False)
        return layers

    def _entry(self, row: Tensor) -> _Entry:
        """The sum only finds candidates; equality decides."""
        key = tuple(row.shape), float(row.sum(dtype=torch.float32))
        entry = self._entries.get(key)
        if entry is not None and torch.equal(entry.context, row):
            self._entries.move_to_end(key)
            return entry
        entry = _Entry(row.clone(), self._project(row[None]))
        replaced = self._entries.pop(key, None)
        self._entries[key] = entry
        self._size += entry.size - (replaced.size if replaced else 0)
        while self._size > self._limit and len(self._entries) > 1:
            self._size -= self._entries.popitem(last=False)[1].size
        return entry
