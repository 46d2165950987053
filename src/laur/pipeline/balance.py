"""`balance="style"`: weights at which a style over an accelerator keeps its look and what the prompt says.

An accelerator was distilled on pictures without the style, at one guidance. What that guidance adds to a style (its
words are a condition like others) is not in it, so styles come out fainter in four steps than alone in thirty; more of
the style's weight brings the look back, and too much of it takes the place of what the prompt says. Which weights do
both is measured for a pair of files (scripts/balance_styles.py) and stands in the style's card; they are factors of the
weight that was asked for, over the run and by block. The accelerator keeps its weight, since it is merged into the
network that all requests share.

For a pair that was not measured there is a rule, `by_rule`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from laur.style import cards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from laur.core.adapter_ref import AdapterRef
    from laur.core.checkpoint import Checkpoint
    from laur.optimize import BaseAdapter
    from laur.optimize.deltas import Delta
    from laur.pipeline.library import Library

Chosen = list[tuple["AdapterRef", "BaseAdapter"]]
GAIN = 1.25
"""What an unmeasured style's weight is multiplied by, where there is room."""
ROOM = 0.5
"""How large all styles together may become beside the accelerator, in the norm of their differences; beyond it they
are made no larger."""


def balanced(found: Chosen, checkpoint: Checkpoint, library: Library) -> tuple[Chosen, list[str]]:
    """The adapters with the styles' weights changed, and what to tell.

    Left alone are styles that are weighed over the run or by block already, and everything where nothing accelerates.
    """
    fast = next((adapter for _, adapter in found if adapter.recommends.accelerates), None)
    styles = [place for place, (ref, adapter) in enumerate(found) if _is_style(ref, adapter, library, checkpoint)]
    if fast is None:
        return found, ["balance has no effect without an accelerator such as LCM-LoRA"]
    if not styles:
        return found, ["balance has no effect without a style"]
    changed = list(found)
    open_ones: list[int] = []
    for place in styles:
        ref, adapter = found[place]
        solved = measured(ref.name, adapter.sha256, fast.sha256)
        if solved is None:
            open_ones.append(place)
        else:
            changed[place] = dataclasses.replace(ref, phases=solved.phases, by_block=solved.by_block), adapter
    if open_ones:
        factor = by_rule([found[place] for place in styles], fast, checkpoint, library)
        for place in open_ones:
            ref, adapter = found[place]
            # as a phase, so that a recipe that is filled again shows that it was weighed
            changed[place] = dataclasses.replace(ref, phases=((0.0, round(factor, 4)),)), adapter
    return changed, []


def measured(name: str, style: str, accelerator: str) -> cards.Balance | None:
    """What the card of that name says for these two files; None where it says nothing."""
    if not cards.is_known(name):
        return None
    found = cards.card(name).balances
    return next((one for one in found if (one.style, one.accelerator) == (style, accelerator)), None)


def by_rule(styles: Chosen, fast: BaseAdapter, checkpoint: Checkpoint, library: Library) -> float:
    """One factor for styles that were not measured: GAIN, or less where they are large beside the accelerator.

    Size is the Frobenius norm of the differences of the denoiser's weights, as `weight` has them, those of several
    styles added as if they were orthogonal, which styles and accelerators nearly are.
    """
    whole = _size(library.rows.deltas(checkpoint.key, fast.sha256))
    sizes = [ref.weight * _size(library.rows.deltas(checkpoint.key, adapter.sha256)) for ref, adapter in styles]
    size = math.hypot(*sizes)
    return min(GAIN, max(1.0, ROOM * whole / size)) if size else GAIN


def _size(deltas: Mapping[str, Delta]) -> float:
    """Over the low-rank differences of the denoiser; those of other kinds count nothing."""
    from laur.optimize.deltas import LowRank

    total = 0.0
    for name, delta in deltas.items():
        if name.startswith("unet.") and isinstance(delta, LowRank):
            up, down = delta.factors()
            total += delta.scale**2 * float(((up.T @ up) * (down @ down.T)).sum())
    return math.sqrt(max(total, 0.0))


def _is_style(ref: AdapterRef, adapter: BaseAdapter, library: Library, checkpoint: Checkpoint) -> bool:
    """Whether it changes the denoiser, slows nothing down and has one weight for all steps and blocks."""
    if adapter.recommends.accelerates or not ref.weight or ref.by_block or ref.phases or ref.steps:
        return False
    return any(name.startswith("unet.") for name in library.rows.deltas(checkpoint.key, adapter.sha256))
