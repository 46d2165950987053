"""How many pictures a denoiser call should have on this device: measured, not assumed.

On a GPU a call of eight rows takes hardly longer than one of a single row; on two cores it takes eight times as long,
and a larger batch only makes everybody wait. For a few sizes, calls of 1, 2, 4, … rows are timed, and the cap is the
last that still drew clearly more pictures a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import LaurError
from laur.core.recipe import Recipe

if TYPE_CHECKING:
    from laur.pipeline.engine import Engine

GAIN = 1.05
"""How much more a batch of double size must draw in a second to be worth its longer steps."""
LONGEST = 2.0
"""Seconds of one call beyond which nobody should have to wait for the next admission."""
ROWS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Profile:
    """Caps by size."""

    caps: tuple[tuple[int, int], ...]
    """(latent pixels of a row, rows), by size."""

    def rows(self, pixels: int) -> int:
        """The cap for rows of so many latent pixels; between and beyond the measured sizes in proportion."""
        smaller = [cap for cap in self.caps if cap[0] <= pixels]
        known, rows = smaller[-1] if smaller else self.caps[0]
        return max(1, min(ROWS[-1], rows * known // pixels))

    def save(self, path: Path) -> None:
        """Keep it for the next start."""
        from laur.utils.files import atomic_write

        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(self.caps).encode())

    @classmethod
    def read(cls, path: Path) -> Profile | None:
        """What was kept, if it can be read."""
        try:
            caps = tuple((int(pixels), int(rows)) for pixels, rows in json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return cls(caps) if caps and all(pixels > 0 and rows > 0 for pixels, rows in caps) else None


def measure(engine: Engine, sides: Sequence[int], *, clock: Callable[[], float] = time.perf_counter) -> Profile:
    """Time the engine's own checkpoint at square sizes (pixels). The engine must be idle and have no cap of its own.

    Errors: those of resolving; a size that does not fit is left out.
    """
    caps: list[tuple[int, int]] = []
    for side in sorted(sides):
        try:
            pixels, rows = _cap(engine, side, clock)
        except LaurError:
            if not caps:
                raise
            break
        caps.append((pixels, rows))
    return Profile(tuple(caps))


def _cap(engine: Engine, side: int, clock: Callable[[], float]) -> tuple[int, int]:
    best, speed, pixels = 1, 0.0, 1
    for rows in ROWS:
        pixels, seconds = _time(engine, side, rows, clock)
        if rows / seconds < speed * GAIN:
            break
        best, speed = rows, rows / seconds
        if 2 * seconds > LONGEST:
            break
    return pixels, best


def _time(engine: Engine, side: int, rows: int, clock: Callable[[], float]) -> tuple[int, float]:
    """Latent pixels, and the shorter of two calls' seconds after one that warms up."""
    recipe = Recipe(prompt="a measure", steps=4, guidance=1.0, width=side, height=side)
    plans = [engine.resolve(recipe.replace(seed=number)) for number in range(rows)]
    tickets = [engine.submit(plan.plan, plan.recipe) for plan in plans]
    try:
        engine.step()
        seconds: list[float] = []
        for _ in range(2):
            began = clock()
            engine.step()
            seconds.append(clock() - began)
    finally:
        for ticket in tickets:
            engine.cancel(ticket)
        engine.step()
    _, height, width = plans[0].plan.latent_shape
    return height * width, max(1e-9, min(seconds))


def sides_for(native: int) -> tuple[int, ...]:
    """What is measured for a checkpoint that was trained at `native` pixels."""
    return (max(64, native // 2), native, 2 * native)
