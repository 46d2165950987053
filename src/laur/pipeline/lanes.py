"""Which tickets step together.

A lane holds the tickets whose next step may share a batch: same denoiser, latent shape and context length, all worked
out from their plans alone. Lanes take turns, the one that has waited longest first, so that no size starves another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from laur.pipeline.running import Running


class Lanes:
    """Turn-taking over lanes, and the cap on rows of one call."""

    def __init__(self, row_pixels: int) -> None:
        """`row_pixels` bounds rows · latent height · latent width of one denoiser call; one ticket always fits."""
        self._row_pixels = row_pixels
        self._served: OrderedDict[Hashable, None] = OrderedDict()

    def pick(self, active: Iterable[Running]) -> list[Running]:
        """The tickets of the next denoiser call, oldest first within the lane."""
        lanes: OrderedDict[Hashable, list[Running]] = OrderedDict()
        for running in active:
            lanes.setdefault(running.lane, []).append(running)
        if not lanes:
            return []
        # lanes never served come first, in order of arrival; of the others the one served longest ago
        waiting = [key for key in lanes if key not in self._served]
        key = waiting[0] if waiting else next(key for key in self._served if key in lanes)
        self._served[key] = None
        self._served.move_to_end(key)
        for gone in [served for served in self._served if served not in lanes]:
            del self._served[gone]
        return self._fill(lanes[key])

    def _fill(self, lane: list[Running]) -> list[Running]:
        chosen, pixels = [lane[0]], _pixels(lane[0])
        for running in lane[1:]:
            pixels += _pixels(running)
            if pixels > self._row_pixels:
                break
            chosen.append(running)
        # first come, first finished: those left out follow as the older ones leave
        return chosen


def _pixels(running: Running) -> int:
    _, height, width = running.latent.shape
    return len(running.stage.rows) * height * width
