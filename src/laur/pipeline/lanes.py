"""Which tickets step together.

A lane holds the tickets whose next step may share a batch: same denoiser, latent shape and context length, all worked
out from their plans alone. Lanes take turns by deficit round robin (Shreedhar and Varghese, SIGCOMM 1995), where a
turn costs its rows times their latent pixels: a flood of one size starves no other, and small pictures are not held up
by large ones beyond their share. Lanes of one denoiser stay together for a few turns.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from laur.pipeline.running import Lane, Running
from laur.pipeline.sharing import BRIEF, Usage, count, fill, most_each, within

RowCap = Callable[[int], int]
"""From the latent pixels of a row to the most rows that one denoiser call may have."""
TURNS_PER_DENOISER = 8
"""Turns that lanes of one denoiser (checkpoint and merged adapters) may take in a row while others wait.

Merging another set of adapters costs several steps' time: to change at every step would slow down everybody."""


class Lanes:
    """Turn-taking over lanes, and the cap on rows of one call."""

    def __init__(
        self, row_pixels: int | RowCap, free: RowCap | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`row_pixels` bounds rows · latent height · latent width of one denoiser call, or is the cap for each size, as
        it was measured on a device; one ticket always fits. `free` is how many rows take hardly longer than one."""
        self._free: RowCap = free or (lambda pixels: 1)
        self._cap: RowCap = row_pixels if callable(row_pixels) else lambda pixels: row_pixels // pixels
        self._deficits: OrderedDict[Lane, int] = OrderedDict()
        """Of each lane, in the order of their turns: what it may still spend, in rows · latent pixels."""
        self._usage = Usage(clock)
        self._denoiser: tuple[Hashable, ...] = ()
        self._turns = 0
        self.waiting: frozenset[Hashable] = frozenset()
        """Owners left out of the latest call."""
        self.brief = False
        """Whether that was to be short, since an owner who drew a moment ago may come back at any time."""
        self._seconds: dict[int, float] = {}
        """That a row of a call took of late, by its latent pixels."""

    def pick(self, active: Iterable[Running]) -> list[Running]:
        """The tickets of the next denoiser call, oldest first within the lane."""
        active = list(active)
        lanes: OrderedDict[Lane, list[Running]] = OrderedDict()
        for running in active:
            if running.finished:
                continue
            lanes.setdefault(running.lane, []).append(running)
        self.waiting = self._usage.waiting(active, max((self.cap(lane[0]) for lane in lanes.values()), default=0))
        if not lanes:
            return []
        for gone in [known for known in self._deficits if known not in lanes]:
            del self._deficits[gone]
        for new in lanes:
            self._deficits.setdefault(new, 0)
        self.brief = self._usage.alone()
        most = most_each(running for lane in lanes.values() for running in lane if not self._waits(running))
        batches = {
            key: self._fill(lane, most)
            for key, lane in lanes.items()
            if any(not self._waits(running) for running in lane)
        }
        # a call that is not full costs more than its rows: it is charged as the smallest full one
        least = min(self._full(lanes[key][0]) for key in batches)
        batch = batches[self._next({key: max(least, sum(map(_pixels, batch))) for key, batch in batches.items()})]
        self._usage.charge(batch)
        return batch

    def took(self, batch: Sequence[Running], seconds: float) -> None:
        """Learn how long a call was."""
        pixels, each = _pixels(batch[0]) // len(batch[0].stage.rows), seconds / count(batch)
        self._seconds[pixels] = 0.75 * self._seconds.get(pixels, each) + 0.25 * each

    def cap(self, running: Running) -> int:
        """The most rows that a call like its next one may have."""
        rows = len(running.stage.rows)
        return max(rows, self._cap(_pixels(running) // rows))

    def _next(self, costs: Mapping[Lane, int]) -> Lane:
        """The lane whose turn it is; but a denoiser once merged is used for a few turns before the next one."""
        ready = [key for key in self._deficits if key in costs]
        first = ready[0]
        same = [key for key in ready if key[:2] == self._denoiser]
        if not same or self._turns >= TURNS_PER_DENOISER:
            self._turns = 0 if first[:2] != self._denoiser else self._turns
            self._denoiser = first[:2]
            same = [key for key in ready if key[:2] == self._denoiser]
        self._turns += 1
        return self._spend(same, costs)

    def _spend(self, among: list[Lane], costs: Mapping[Lane, int]) -> Lane:
        """Deficit round robin over some of the lanes."""
        quantum = min(costs[key] for key in among)
        while True:
            key = among.pop(0)
            if self._deficits[key] < costs[key]:
                self._deficits[key] += quantum
            if enough := self._deficits[key] >= costs[key]:
                self._deficits[key] -= costs[key]
            if self._deficits[key] < costs[key]:
                self._deficits.move_to_end(key)
            if enough:
                return key
            among.append(key)

    def _full(self, running: Running) -> int:
        """What a full call of its lane costs."""
        return self.cap(running) * (_pixels(running) // len(running.stage.rows))

    def _waits(self, running: Running) -> bool:
        return running.ticket.owner in self.waiting

    def _fill(self, lane: list[Running], most: int | None) -> list[Running]:
        first = [running for running in lane if not self._waits(running)]
        pixels = _pixels(first[0]) // len(first[0].stage.rows)
        free = self._free(pixels)
        if most is not None:
            most = max(most, free // len({running.ticket.owner for running in first}))
        cap = self._cap(pixels)
        if self.brief:
            cap = min(cap, max(1, free, int(BRIEF / self._seconds.get(pixels, BRIEF))))
        batch = fill(first, cap, most, self._usage.had)
        late = within((running for running in lane if self._waits(running)), min(free, cap) - count(batch))
        return batch + late


def _pixels(running: Running) -> int:
    """Of all the rows of its next step."""
    _, height, width = running.latent.shape
    return len(running.stage.rows) * height * width
