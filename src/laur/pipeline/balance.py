"""`balance="style"`: weights at which a style over an accelerator keeps its look and what the prompt says.

An accelerator was distilled on pictures without the style. In its first steps, out of noise alone, it lays down at
once what a picture shows; a style that takes part there with all its weight takes the place of what the prompt says,
while its look is made in the steps after. So a style's weight is low at first and grows. Which weights keep both is
measured for a pair of files (scripts/balance_styles.py) and stands in the style's card; they are factors of the
weight that was asked for, over the run and by block. The accelerator keeps its weight: it is merged into the network
that all requests share. Where no weights keep the caption, a guidance above 1 stands there too: the accelerator has
the base's guidance distilled in, not what the style's own predictions would gain by it. It takes two rows a step.

For a pair that was not measured there is a rule, `RULE`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from laur.style import cards

if TYPE_CHECKING:
    from laur.core.adapter_ref import AdapterRef
    from laur.core.checkpoint import Checkpoint
    from laur.optimize import BaseAdapter
    from laur.pipeline.library import Library

Chosen = list[tuple["AdapterRef", "BaseAdapter"]]


class Balanced(NamedTuple):
    """What is drawn with in place of what was asked for."""

    found: Chosen
    notes: list[str]
    guidance: float | None = None
    """Where the recipe leaves it open."""


RULE = ((0.0, 0.3), (0.25, 0.8), (0.5, 1.2), (0.75, 1.6))
"""Factors of the weight of a style that was not measured: of the courses that were tried, what keeps most of both
over nine styles of `mini` for which no two factors were enough (docs/styles.md)."""


def balanced(found: Chosen, checkpoint: Checkpoint, library: Library) -> Balanced:
    """The adapters with the styles' weights changed, and what to tell.

    Left alone are styles that are weighed over the run or by block already, and everything where nothing accelerates.
    """
    fast = next((adapter for _, adapter in found if adapter.recommends.accelerates), None)
    styles = [place for place, (ref, adapter) in enumerate(found) if _is_style(ref, adapter, library, checkpoint)]
    if fast is None:
        return Balanced(found, ["balance has no effect without an accelerator such as LCM-LoRA"])
    if not styles:
        return Balanced(found, ["balance has no effect without a style"])
    changed, guidances = list(found), list[float]()
    for place in styles:
        ref, adapter = found[place]
        solved = measured(ref.name, adapter.sha256, fast.sha256)
        phases, by_block = (RULE, None) if solved is None else (solved.phases, solved.by_block)
        changed[place] = dataclasses.replace(ref, phases=phases, by_block=by_block), adapter
        if solved is not None and solved.guidance is not None:
            guidances.append(solved.guidance)
    return Balanced(changed, [], max(guidances, default=None))


def measured(name: str, style: str, accelerator: str) -> cards.Balance | None:
    """What the card of that name says for these two files; None where it says nothing."""
    if not cards.is_known(name):
        return None
    found = cards.card(name).balances
    return next((one for one in found if (one.style, one.accelerator) == (style, accelerator)), None)


def _is_style(ref: AdapterRef, adapter: BaseAdapter, library: Library, checkpoint: Checkpoint) -> bool:
    """Whether it changes the denoiser, slows nothing down and has one weight for all steps and blocks."""
    if adapter.recommends.accelerates or not ref.weight or ref.by_block or ref.phases or ref.steps:
        return False
    return any(name.startswith("unet.") for name in library.rows.deltas(checkpoint.key, adapter.sha256))
