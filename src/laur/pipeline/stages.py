"""From a filled recipe's adapters to stages and rows: parts of the run become stages, regions become rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from laur.core.plan import AdapterUse, Combine, RowSpec, Stage
from laur.core.recipe import box_of
from laur.input.tags import with_words

if TYPE_CHECKING:
    from laur.core.recipe import AdapterRef
    from laur.core.sampler.table import SamplerTable

MakeStage = Callable[["SamplerTable", tuple[AdapterUse, ...], str], Stage]
"""A stage of a table, with adapters, for a prompt."""


def split(table: SamplerTable, refs: Iterable[AdapterRef], prompt: str, make: MakeStage) -> tuple[Stage, ...]:
    """Stages of the table, each with the adapters that act in it. `refs` are filled."""
    refs = tuple(refs)
    total = len(table.steps)
    cuts = sorted({0, total, *(cut for ref in refs for cut in _range(ref, total))})
    stages: list[tuple[int, int, tuple[AdapterRef, ...]]] = []
    for begin, end in pairwise(cuts):
        acting = tuple(ref for ref in refs if _range(ref, total)[0] <= begin and end <= _range(ref, total)[1])
        if stages and stages[-1][2] == acting:
            stages[-1] = (stages[-1][0], end, acting)
        else:
            stages.append((begin, end, acting))
    return tuple(_stage(table.slice(begin, end), acting, prompt, make) for begin, end, acting in stages)


def _range(ref: AdapterRef, total: int) -> tuple[int, int]:
    """First step and the one after the last; at least one step, so that nothing is asked for in vain."""
    if ref.steps is None:
        return 0, total
    begin = min(round(ref.steps[0] * total), total - 1)
    return begin, max(round(ref.steps[1] * total), begin + 1)


def _stage(table: SamplerTable, refs: tuple[AdapterRef, ...], prompt: str, make: MakeStage) -> Stage:
    everywhere = [ref for ref in refs if ref.region is None]
    prompt = with_words(prompt, (ref.words for ref in everywhere if ref.words))
    stage = make(table, tuple(map(_use, everywhere)), prompt)
    regions = list(dict.fromkeys(ref.region for ref in refs if ref.region is not None))
    if not regions:
        return stage
    groups: list[tuple[str | None, tuple[RowSpec, ...]]] = [] if _cover(regions) else [(None, stage.rows)]
    for region in regions:
        own = [ref for ref in refs if ref.region == region]
        said = with_words(prompt, (ref.words for ref in own if ref.words))
        uses = tuple(map(_use, own))
        groups.append((region, tuple(replace(row, adapters=uses) for row in make(table, stage.adapters, said).rows)))
    return _joined(stage, groups)


def _cover(regions: Iterable[str]) -> bool:
    """Whether boxes leave no place to what is about them, so that it need not be drawn."""
    boxes = [box_of(region) for region in regions]
    found = [box for box in boxes if box is not None]
    if len(found) < len(boxes):
        return False
    xs = sorted({0.0, 1.0, *(x for box in found for x in (box[0], box[2]))})
    ys = sorted({0.0, 1.0, *(y for box in found for y in (box[1], box[3]))})
    centres = [((a + b) / 2, (c + d) / 2) for a, b in pairwise(xs) for c, d in pairwise(ys)]
    return all(any(x0 < x < x1 and y0 < y < y1 for x0, y0, x1, y1 in found) for x, y in centres)


def _joined(stage: Stage, groups: list[tuple[str | None, tuple[RowSpec, ...]]]) -> Stage:
    """One stage of all the rows; each group is guided by itself, in its own place."""
    windows = max(row.text.windows for _, rows in groups for row in rows)
    rows = tuple(replace(row, text=replace(row.text, windows=windows)) for _, rows in groups for row in rows)
    combine = Combine(
        weights=stage.combine.weights * len(groups),
        rescale=stage.combine.rescale,
        reference=stage.combine.reference,
        regions=tuple(region for region, group in groups for _ in group),
    )
    return replace(stage, rows=rows, combine=combine)


def _use(ref: AdapterRef) -> AdapterUse:
    assert ref.sha256 is not None
    return AdapterUse(sha256=ref.sha256, weight=ref.weight)
