"""Adapters are read before their turn comes, beside whoever draws, so that no running batch waits for a disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laur.core.plan import AdapterUse, Plan
    from laur.pipeline.library import Library


def foresee(library: Library, plan: Plan) -> None:
    """Have what a plan's adapters need read in the background. An error shows when the plan is drawn."""
    for checkpoint, uses in _uses(plan):
        library.rows.prefetch(checkpoint, uses)


def coming(library: Library, plan: Plan) -> bool:
    """Whether some of it is being read at this moment; to draw now would be to wait for it."""
    keys = ((checkpoint, use.sha256) for checkpoint, uses in _uses(plan) for use in uses)
    return any(library.rows.store.is_coming(key) for key in keys)


def resident(library: Library, checkpoint: str, sha256: str) -> bool:
    """Whether an adapter's deltas for a checkpoint are in memory."""
    return library.rows.store.holds((checkpoint, sha256))


def _uses(plan: Plan) -> Iterator[tuple[str, tuple[AdapterUse, ...]]]:
    for stage in plan.stages:
        yield stage.checkpoint, (*stage.adapters, *(use for row in stage.rows for use in row.adapters))
