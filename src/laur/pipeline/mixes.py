"""Whether adapters together stay in the range in which a model still draws."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from laur.core.errors import LaurError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from laur.core.plan import AdapterUse, Plan, Stage
    from laur.optimize.strength import Strength
    from laur.pipeline.library import Library

Uses = tuple["AdapterUse", ...]
LIMIT = 1.5
"""Beyond this many times the strength (`Strength.overall`) that the strongest of its adapters has alone, at weight 1, a
mix loses what the prompt says: found for `mini` by benchmarks/stacked_adapters.py. A multiple, since adapters that were
made for one model differ in strength, and each was made to be drawn with alone."""
_REMEMBERED = 256
"""Mixes whose strength is kept, a few kilobytes each."""


class Mixes:
    """Strengths of the sets of adapters that a Library drew with last."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._found: OrderedDict[tuple[str, Uses], Strength] = OrderedDict()
        self._norms: dict[tuple[str, str], float] = {}

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """What to tell of a plan's mixes. Reads their adapters, where that has not been done.

        What counts is the mean over the steps, of the strongest mix of each: a style may be more than its own weight
        late in a run, when it is settled what the picture shows, if it is less at first.
        """
        if not any(self._looked_at(uses) for stage in plan.stages for uses in self._sets(stage)):
            return ()
        total, most, worst = 0.0, 0.0, None
        for stage in plan.stages:
            times = 0.0
            for uses in dict.fromkeys(self._sets(stage)):
                try:
                    strength = self.strength(stage.checkpoint, uses)
                    alone = max(self.strength(stage.checkpoint, (_alone(use),)).overall for use in uses)
                except LaurError:  # a damaged file fails the picture, with a line of its own
                    return ()
                own = strength.overall / alone if alone else 0.0
                times = max(times, own)
                if own > most:
                    most, worst = own, strength
            total += times * len(stage.table.steps)
        mean = total / max(sum(len(stage.table.steps) for stage in plan.stages), 1)
        return (_told(worst, mean),) if worst is not None and mean > LIMIT else ()

    def strength(self, checkpoint: str, uses: Uses) -> Strength:
        """Of adapters together, in the denoiser. Errors: AdapterError, MismatchError."""
        key = (checkpoint, uses)
        if key not in self._found:
            self._found[key] = self._measure(checkpoint, uses)
            while len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        self._found.move_to_end(key)
        return self._found[key]

    def _sets(self, stage: Stage) -> Iterator[Uses]:
        """Of each row."""
        for row in stage.rows:
            if uses := tuple(use for use in (*stage.adapters, *row.adapters) if self._counts(use)):
                yield uses

    @staticmethod
    def _looked_at(uses: Uses) -> bool:
        """One adapter at no more than its own weight is what it was made to be."""
        return len(uses) > 1 or any(abs(use.weight) * _most(use) > 1 for use in uses)

    def _counts(self, use: AdapterUse) -> bool:
        """An accelerator is part of what the model is."""
        return bool(use.weight) and not self._library.by_content(use.sha256).recommends.accelerates

    def _measure(self, checkpoint: str, uses: Uses) -> Strength:
        from laur.optimize.strength import strength
        from laur.pipeline.placing import of_components

        unet = self._library.weights(checkpoint).unet()

        def weight_of(layer: str) -> Tensor:
            return unet.get_parameter(f"{layer.removeprefix('unet.')}.weight")

        def norm_of(layer: str) -> float:
            if (checkpoint, layer) not in self._norms:
                self._norms[checkpoint, layer] = float(weight_of(layer).detach().float().norm())
            return self._norms[checkpoint, layer]

        terms = [term for use in uses for term in self._library.rows.terms(checkpoint, use)]
        own = [(of_components(deltas, {"unet"}), weight) for deltas, weight in terms]
        layers = sum(name.startswith("unet.") for name in self._library.layers(checkpoint))
        return strength(own, weight_of, norm_of, layers=layers, device=self._library.placement.device)


def _most(use: AdapterUse) -> float:
    return max([1.0, *(abs(factor) for _, factor in use.by_block or ())])


def _alone(use: AdapterUse) -> AdapterUse:
    """As it was made to be drawn with."""
    return replace(use, weight=1.0, by_block=None)


def _told(strength: Strength, times: float) -> str:
    [(worst, most)] = strength.most()
    return (
        f"these adapters together change the weights {times:.2g} times as much as the strongest of them alone (most: "
        f"{most:.2g} of its size in {worst}), and beyond {LIMIT:g} times pictures lose what the prompt says; "
        f"{_rounded_down(LIMIT / times)} times their weights stays within"
    )


def _rounded_down(value: float) -> str:
    """To two digits: what is advised must not lie beyond the limit itself."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / step) * step:.2g}"
