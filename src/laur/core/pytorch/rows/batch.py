"""Which rows of a call have which adapters, and their factors gathered for batched products.

Gathered once and kept while the composition stays: it changes only when a request is admitted or leaves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laur.core.pytorch.rows.factors import Factors, Fused, RowSet, bucket

_BATCHES_KEPT = 2
"""Compositions whose stacks stay: those of the two lanes that step in turn."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Neighbouring rows that share one set."""

    start: int
    stop: int
    rows: RowSet

    @property
    def length(self) -> int:
        """How many."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Neighbouring runs of one length and one rank bucket: one batched product for all of them."""

    start: int
    stop: int
    down: Tensor
    """(runs, in, R), zeros beyond each run's own rank."""
    up: Tensor
    """(runs, R, out)."""
    ranks: Tensor
    """(runs,) int32, each run's own."""


class RowBatch:
    """The sets of a call's rows, in the rows' order."""

    def __init__(self, sets: Sequence[RowSet | None]) -> None:
        """Rows that share a set should lie together: see `order`."""
        self.sets = tuple(sets)
        self.runs = _runs(self.sets)
        self._groups: dict[Fused, list[Group]] = {}

    def touches(self, names: Sequence[str]) -> bool:
        """Whether any row changes any of these layers."""
        return any(run.rows.touches(names) for run in self.runs)

    def groups(self, fused: Fused) -> list[Group]:
        """The products that a layer needs; none where no row changes it."""
        if fused not in self._groups:
            self._groups[fused] = self._gather(fused)
        return self._groups[fused]

    def stretches(self, names: Sequence[str], count: int) -> Iterator[tuple[int, int, RowSet | None]]:
        """Start, stop and set of neighbouring rows of `count` that share these layers' weight; None is their own."""
        start = 0
        for run in self.runs:
            if run.rows.touches(names):
                if start < run.start:
                    yield start, run.start, None
                yield run.start, run.stop, run.rows
                start = run.stop
        if start < count:
            yield start, count, None

    def spans(self, names: Sequence[str], count: int) -> list[tuple[int, int, bool]]:
        """Start and stop of neighbouring rows of `count`, and whether their sets change any of these layers."""
        spans: list[tuple[int, int, bool]] = []
        for start, stop, rows in self.stretches(names, count):
            changed = rows is not None
            joins = bool(spans) and spans[-1][2] == changed
            spans.append((spans.pop()[0] if joins else start, stop, changed))
        return spans

    def _gather(self, fused: Fused) -> list[Group]:
        found: list[list[tuple[Run, Factors]]] = []
        for run in self.runs:
            factors = fused.of(run.rows)
            if factors is None:
                continue
            last = found[-1][-1] if found else None
            if last is not None and _alike(last, (run, factors)):
                found[-1].append((run, factors))
            else:
                found.append([(run, factors)])
        return [_stacked(members) for members in found]


class RowBatches:
    """The last few compositions, so that their stacks are gathered once and not at each step.

    Bounded by their number and not in bytes: the batches under way need them whatever the budget says.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], RowBatch] = OrderedDict()

    def of(self, sets: Sequence[RowSet | None]) -> RowBatch:
        """The batch of these sets in this order; a batch holds its sets, so no other can have their ids."""
        key = tuple(id(rows) for rows in sets)
        found = self._known.pop(key, None)
        self._known[key] = RowBatch(sets) if found is None else found
        while len(self._known) > _BATCHES_KEPT:
            self._known.popitem(last=False)
        return self._known[key]

    def clear(self) -> None:
        """Let go of everything."""
        self._known.clear()


def order(sets: Sequence[RowSet | None]) -> list[int]:
    """Row numbers, those that share a set next to one another, in the order in which sets first appear."""
    first: dict[int, int] = {}
    for index, rows in enumerate(sets):
        first.setdefault(id(rows), index)
    return sorted(range(len(sets)), key=lambda index: first[id(sets[index])])


def _runs(sets: Sequence[RowSet | None]) -> list[Run]:
    runs: list[Run] = []
    start = 0
    for stop in range(1, len(sets) + 1):
        if stop == len(sets) or sets[stop] is not sets[start]:
            rows = sets[start]
            if rows is not None and rows.layers:
                runs.append(Run(start, stop, rows))
            start = stop
    return runs


def _alike(a: tuple[Run, Factors], b: tuple[Run, Factors]) -> bool:
    (one, first), (two, second) = a, b
    return one.stop == two.start and one.length == two.length and bucket(first.rank) == bucket(second.rank)


def _stacked(members: list[tuple[Run, Factors]]) -> Group:
    """One set is padded and laid out as many are, so that a row's sums are the same in any company."""
    runs = [run for run, _ in members]
    like = members[0][1].up
    out, inner, size = like.shape[0], members[0][1].down.shape[1], bucket(members[0][1].rank)
    down, up = (
        torch.zeros(len(members), *shape, dtype=like.dtype, device=like.device)
        for shape in ((inner, size), (size, out))
    )
    for index, (_, factors) in enumerate(members):
        down[index, :, : factors.rank] = factors.down.t()
        up[index, : factors.rank] = factors.up.t()
    ranks = torch.tensor([factors.rank for _, factors in members], dtype=torch.int32, device=like.device)
    return Group(runs[0].start, runs[-1].stop, down, up, ranks)
