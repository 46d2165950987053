"""What a worker counts."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from laur.serve.job import Job, State

RESIDENT = 16
"""Adapters used last that are told to the queue as resident."""


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
    adapters: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])
    """Used last."""

    def ended(self, state: State | None, job: Job) -> None:
        """Count an end."""
        self.states[state.value if state else "other"] += 1
        names = [ref.name for ref in job.recipe.adapters or ()] + ([job.recipe.style] if job.recipe.style else [])
        for name in names:
            self.adapters[name] = None
            self.adapters.move_to_end(name)
        while len(self.adapters) > RESIDENT:
            self.adapters.popitem(last=False)
