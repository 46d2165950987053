"""How many pictures a denoiser call should have on this device: measured, not assumed.

On a GPU a call of eight rows takes hardly longer than one of a single row; on two cores it takes seven times as long,
and a larger batch mostly makes everybody wait. For a few sizes, calls of 1, 2, 4, … rows are timed, and the cap is the
smallest that drew nearly as many pictures a second as the best: a rule that comes to the same where timings scatter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import LaurError
from laur.core.recipe import Recipe

if TYPE_CHECKING:
    from laur.pipeline.engine import Engine

NEARLY = 0.92
"""Of the best speed: what a smaller batch with its shorter steps may cost."""
TURNS = 3
"""Times that all sizes are timed in turn, of which the shortest counts: what else the machine does comes and goes."""
HARDLY = 1.25
"""Times as long as a call of one row that a call may take whose rows count as free."""
LONGEST = 2.0
"""Seconds of one call beyond which nobody should have to wait for the next admission."""
ROWS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Profile:
    """Caps by size."""

    caps: tuple[tuple[int, int, int], ...]
    """(latent pixels of a row, rows of a full call, rows that take hardly longer than one), by size."""

    def rows(self, pixels: int) -> int:
        """The cap for rows of so many latent pixels; between and beyond the measured sizes in proportion."""
        known, rows, _ = self._nearest(pixels)
        return max(1, min(ROWS[-1], rows * known // pixels))

    def free(self, pixels: int) -> int:
        """How many rows of so many latent pixels take hardly longer than one."""
        known, _, free = self._nearest(pixels)
        return max(1, min(ROWS[-1], free * known // pixels))

    def save(self, path: Path) -> None:
        """Keep it for the next start."""
        from laur.utils.files import atomic_write

        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(self.caps).encode())

    @classmethod
    def read(cls, path: Path) -> Profile | None:
        """What was kept, if it can be read."""
        try:
            found = json.loads(path.read_text("utf-8"))
            caps = tuple((int(pixels), int(rows), int(free)) for pixels, rows, free in found)
        except (OSError, ValueError, TypeError):
            return None
        return cls(caps) if caps and all(min(cap) > 0 for cap in caps) else None

    def _nearest(self, pixels: int) -> tuple[int, int, int]:
        smaller = [cap for cap in self.caps if cap[0] <= pixels]
        return smaller[-1] if smaller else self.caps[0]


def measure(engine: Engine, sides: Sequence[int], *, clock: Callable[[], float] = time.perf_counter) -> Profile:
    """Time the engine's own checkpoint at square sizes (pixels). The engine must be idle and have no cap of its own.

    Errors: those of resolving; a size that does not fit is left out.
    """
    caps: list[tuple[int, int, int]] = []
    for side in sorted(sides):
        try:
            caps.append(_cap(engine, side, clock))
        except LaurError:
            if not caps:
                raise
            break
    for index in reversed(range(len(caps) - 1)):  # smaller pictures gain no less from company than larger ones
        pixels, rows, free = caps[index]
        caps[index] = pixels, max(rows, caps[index + 1][1]), max(free, caps[index + 1][2])
    return Profile(tuple(caps))


def _cap(engine: Engine, side: int, clock: Callable[[], float]) -> tuple[int, int, int]:
    shortest: dict[int, float] = {}
    pixels = 1
    for turn in range(TURNS):
        for rows in tuple(shortest) if turn else ROWS:
            pixels, seconds = _time(engine, side, rows, clock)
            shortest[rows] = min(seconds, shortest.get(rows, seconds))
            if not turn and (2 * seconds > LONGEST or _is_past_the_best(shortest)):
                break
    enough = NEARLY * max(_speeds(shortest))
    cap = next(rows for rows, speed in zip(shortest, _speeds(shortest), strict=True) if speed >= enough)
    free = max(rows for rows, seconds in shortest.items() if seconds <= HARDLY * shortest[1])
    return pixels, cap, free


def _speeds(shortest: Mapping[int, float]) -> list[float]:
    return [rows / seconds for rows, seconds in shortest.items()]


def _is_past_the_best(shortest: Mapping[int, float]) -> bool:
    """Whether two sizes in a row were slower; one may have been disturbed."""
    speeds = _speeds(shortest)
    return max(speeds[-2:]) < NEARLY * max(speeds)


def _time(engine: Engine, side: int, rows: int, clock: Callable[[], float]) -> tuple[int, float]:
    """Latent pixels, and the seconds of a call after one that warms up."""
    recipe = Recipe(prompt="a measure", steps=4, guidance=1.0, width=side, height=side)
    plans = [engine.resolve(recipe.replace(seed=number)) for number in range(rows)]
    tickets = [engine.submit(plan.plan, plan.recipe) for plan in plans]
    try:
        engine.step()
        began = clock()
        engine.step()
        seconds = clock() - began
    finally:
        for ticket in tickets:
            engine.cancel(ticket)
        engine.step()
    _, height, width = plans[0].plan.latent_shape
    return height * width, max(1e-9, seconds)


def sides_for(native: int) -> tuple[int, ...]:
    """What is measured for a checkpoint that was trained at `native` pixels."""
    return (max(64, native // 2), native, 2 * native)
