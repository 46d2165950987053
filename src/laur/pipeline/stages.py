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
Use = Callable[["AdapterRef", float], AdapterUse]
"""An adapter of a filled recipe, as its weight is in one stage."""
Acting = tuple[tuple["AdapterRef", float], ...]
"""Adapters that act at a step, with their weights there."""


def split(table: SamplerTable, refs: Iterable[AdapterRef], prompt: str, make: MakeStage, use: Use) -> tuple[Stage, ...]:
    """Stages of the table, each with the adapters that act in it. `refs` are filled."""
    refs = tuple(refs)
    weights = [_weights(ref, len(table.steps)) for ref in refs]
    runs: list[tuple[int, Acting]] = []
    for step in range(len(table.steps)):
        at = ((ref, own[step]) for ref, own in zip(refs, weights, strict=True))
        acting = tuple((ref, weight) for ref, weight in at if weight is not None)
        if not runs or runs[-1][1] != acting:
            runs.append((step, acting))
    ends = [*(begin for begin, _ in runs[1:]), len(table.steps)][: len(runs)]
    return tuple(
        _stage(table.slice(begin, end), acting, prompt, make, use)
        for (begin, acting), end in zip(runs, ends, strict=True)
    )


def _weights(ref: AdapterRef, total: int) -> list[float | None]:
    """Its weight at each step; None where it does not act."""
    if ref.phases is not None:
        own: list[float | None] = [None] * total
        for part, factor in ref.phases:
            begin = round(part * total)
            own[begin:] = [ref.weight * factor if factor else None] * (total - begin)
        return own
    if ref.steps is None:
        return [ref.weight] * total
    begin = min(round(ref.steps[0] * total), total - 1)
    end = max(round(ref.steps[1] * total), begin + 1)  # at least one step, so that nothing is asked for in vain
    return [ref.weight if begin <= step < end else None for step in range(total)]


def _stage(table: SamplerTable, acting: Acting, prompt: str, make: MakeStage, use: Use) -> Stage:
    everywhere = [(ref, weight) for ref, weight in acting if ref.region is None]
    prompt = with_words(prompt, (ref.words for ref, _ in everywhere if ref.words))
    stage = make(table, tuple(use(ref, weight) for ref, weight in everywhere), prompt)
    regions = list(dict.fromkeys(ref.region for ref, _ in acting if ref.region is not None))
    if not regions:
        return stage
    groups: list[tuple[str | None, tuple[RowSpec, ...]]] = [] if _cover(regions) else [(None, stage.rows)]
    for region in regions:
        own = [(ref, weight) for ref, weight in acting if ref.region == region]
        said = with_words(prompt, (ref.words for ref, _ in own if ref.words))
        uses = tuple(use(ref, weight) for ref, weight in own)
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
