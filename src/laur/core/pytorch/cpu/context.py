"""Cross-attention keys and values, computed once for a text and its adapters, and not once a step.

Found by content, not by who owns the tensor: a text that is equal gives keys that are equal under the same adapters,
whichever request asks and whatever became of the tensor that it was first seen in. Comparing a row costs about 10 us,
computing it about 2 ms.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from laur.core.pytorch.rows.factors import RowSet
from laur.utils.budget import Budget

KeyValue: TypeAlias = tuple[Tensor, Tensor]
"""(rows · heads, D, S) and (rows · heads, S, D)."""

Project: TypeAlias = Callable[[Tensor, RowSet | None], list[KeyValue]]
"""One row's (1, S, D), under the row's adapters, to a pair for each cross-attention."""

_Key: TypeAlias = tuple[tuple[int, ...], float, int]

_SERIALS = itertools.count(1)

_BATCHES_KEPT = 2
"""Batches whose rows stay joined: those of the two lanes that step in turn."""


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
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
    """Keys and values of recent texts, bounded in bytes.

    One thread asks. With a shared budget any thread may make entries leave: the one that reads adapters ahead, say.
    """

    def __init__(self, project: Project, limit: int = 128 << 20) -> None:
        """`limit` is in bytes."""
        self._project, self._limit, self._size = project, limit, 0
        self._serial = next(_SERIALS)
        self._budget: Budget | None = None
        self._lock = threading.Lock()
        """Of the entries and their size; never held while the budget is called."""
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._batches: OrderedDict[tuple[int, ...], tuple[list[_Entry], list[KeyValue]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def share(self, budget: Budget) -> None:
        """Take what is kept here out of a budget that others share, in place of the own limit."""
        self._budget = budget

    def clear(self) -> None:
        """The weights changed and nothing here is true any more, or the network is let go of."""
        with self._lock:
            keys = list(self._entries)
        for key in keys:
            self._let_go(key)
        self._batches.clear()

    def __call__(self, rows: Sequence[Tensor], sets: Sequence[RowSet | None] | None = None) -> list[KeyValue]:
        """One pair for each cross-attention, the heads of `rows` one after the other.

        A row is (S, D); `sets` are those of the rows' adapters that change the projections.
        """
        sets = sets or [None] * len(rows)
        entries = [self._entry(row, own) for row, own in zip(rows, sets, strict=True)]
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

    def _entry(self, row: Tensor, rows: RowSet | None) -> _Entry:
        """The sum only finds candidates; equality decides."""
        key = tuple(row.shape), float(row.sum(dtype=torch.float32)), 0 if rows is None else rows.serial
        entry = self._entries.get(key)
        if entry is not None and torch.equal(entry.context, row):
            with self._lock:
                if key in self._entries:  # else it has left meanwhile: what it holds is true all the same
                    self._entries.move_to_end(key)
            if self._budget is not None:
                self._budget.touch(self._name(key))
            return entry
        self._let_go(key)
        entry = _Entry(row.clone(), self._project(row[None], rows))
        with self._lock:
            self._entries[key] = entry
            self._size += entry.size
        if self._budget is not None:
            self._budget.hold(self._name(key), entry.size, self._leaving(key, entry))
        while self._budget is None and self._size > self._limit and len(self._entries) > 1:
            self._let_go(next(iter(self._entries)))
        return entry

    def _let_go(self, key: _Key) -> None:
        entry = self._entries.get(key)
        if entry is not None and self._leave(key, entry) and self._budget is not None:
            self._budget.release(self._name(key))

    def _name(self, key: _Key) -> tuple[str, int, _Key]:
        """For the budget, which must not hold this cache: that would keep its network."""
        return "texts", self._serial, key

    def _leaving(self, key: _Key, entry: _Entry) -> Callable[[], object]:
        cache, one = weakref.ref(self), weakref.ref(entry)

        def leave() -> None:
            here, found = cache(), one()
            if here is not None and found is not None:
                here._leave(key, found)

        return leave

    def _leave(self, key: _Key, entry: _Entry) -> bool:
        """Let go of this very entry, whichever thread asks; False where another has its place by now."""
        with self._lock:
            if self._entries.get(key) is not entry:
                return False
            del self._entries[key]
            self._size -= entry.size
            return True
