"""What can be seen of the thread that owns an Engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from laur.serve.observe.histogram import SHARE, STEP, Histogram

if TYPE_CHECKING:
    from laur.pipeline.events import Call


@dataclass(slots=True)
class Pulse:
    """What can be seen of the thread from outside; written by it alone."""

    beat: float = 0.0
    """`time.monotonic()` of the last sign of life."""
    working: bool = False
    calls: int = 0
    """Denoiser calls."""
    rows: int = 0
    """That those moved; a picture under guidance has two."""
    step: Histogram = field(default_factory=lambda: Histogram(STEP))
    """Seconds that each took."""
    occupancy: Histogram = field(default_factory=lambda: Histogram(SHARE))
    """Share of a full batch that each had."""
    delayed: int = 0
    """Jobs that let others go first, since their adapters were still being read."""
    foreseen: int = 0
    """Jobs whose adapters were asked for while they waited in the queue."""

    def count(self, call: Call) -> None:
        """Count a call."""
        self.calls, self.rows = self.calls + 1, self.rows + call.rows
        self.step.observe(call.ended - call.began)
        self.occupancy.observe(call.rows / call.full)
