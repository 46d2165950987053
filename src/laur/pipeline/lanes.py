"""Which tickets step together.

A lane holds the tickets whose next step may share a batch: same denoiser, latent shape and context length, all worked
out from their plans alone. Lanes take turns, the one that has waited longest first, so that no size starves another;
lanes of one denoiser stay together for a few turns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from laur.pipeline.running import Lane, Running

TURNS_PER_DENOISER = 8
"""Turns that lanes of one denoiser (checkpoint and merged adapters) may take in a row while others wait.

Merging another set of adapters costs several steps' time: to change at every step would slow down everybody."""


class Lanes:
    """Turn-taking over lanes, and the cap on rows of one call."""

    def __init__(self, row_pixels: int) -> None:
        """`row_pixels` bounds rows · latent height · latent width of one denoiser call; one ticket always fits."""
        self._row_pixels = row_pixels
        self._waiting: OrderedDict[Lane, None] = OrderedDict()
        self._denoiser: tuple[Hashable, ...] = ()
        self._turns = 0

    def pick(self, active: Iterable[Running]) -> list[Running]:
        """The tickets of the next denoiser call, oldest first within the lane."""
        lanes: OrderedDict[Lane, list[Running]] = OrderedDict()
        for running in active:
            lanes.setdefault(running.lane, []).append(running)
        if not lanes:
            return []
        for gone in [known for known in self._waiting if known not in lanes]:
            del self._waiting[gone]
        for new in lanes:
            self._waiting.setdefault(new)
        key = self._next()
        self._waiting.move_to_end(key)
        return self._fill(lanes[key])

    def _next(self) -> Lane:
        """The lane that has waited longest; but a denoiser once merged is used for a few turns before the next one."""
        longest = next(iter(self._waiting))
        if longest[:2] != self._denoiser and self._turns < TURNS_PER_DENOISER:
            same = [key for key in self._waiting if key[:2] == self._denoiser]
            if same:
                self._turns += 1
                return same[0]
        self._turns = 1 if longest[:2] != self._denoiser else self._turns + 1
        self._denoiser = longest[:2]
        return longest

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
