"""What a worker counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from laur.serve.job import State
from laur.serve.observe.histogram import STAGE, WHOLE, Histogram

STAGES = ("queue", "plan", "prepare", "text", "denoise", "decode", "judge", "encode", "store")
"""Of a job: it waits; the recipe becomes a plan; adapters and texts are fetched (the texts alone, once more); its
denoiser calls, from the first to the last; latent to pixels; pixels to a file; the file into the store."""


@dataclass(slots=True)
class Ratio:
    """Hits and misses of one cache."""

    hits: int = 0
    misses: int = 0

    def count(self, hit: bool) -> None:
        """Count one."""
        if hit:
            self.hits += 1
        else:
            self.misses += 1


@dataclass(slots=True)
class Tally:
    """Since the worker began."""

    states: Counter[str] = field(default_factory=Counter[str])
    """Jobs that ended here, by state; `other` where another's result came first."""
    hits: int = 0
    """Files that were in the store already."""
    collapsed: int = 0
    """Jobs that waited for a file that another was drawing."""
    misses: int = 0
    """Files that were drawn."""
    lost: int = 0
    """Leases that ended in our hands: cancelled, late, or taken for dead."""
    checkpoints: Ratio = field(default_factory=Ratio)
    """Whether a job's checkpoint was loaded when it was taken."""
    adapters: Ratio = field(default_factory=Ratio)
    """Whether all of a job's adapters were in memory when it was taken; jobs without any do not count."""
    stages: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram(STAGE) for name in STAGES})
    """Seconds."""
    whole: Histogram = field(default_factory=lambda: Histogram(WHOLE))
    """Seconds from submission to the end of jobs that are done."""

    def ended(self, state: State | None) -> None:
        """Count an end."""
        self.states[state.value if state else "other"] += 1
