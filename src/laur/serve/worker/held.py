"""What a worker has in hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from laur.serve.job import Job
from laur.serve.queue import Lease
from laur.serve.worker.journey import Journey
from laur.serve.worker.messages import Planned

if TYPE_CHECKING:
    from laur.pipeline.lanes import RowCap

LATENT = 8
"""Pixels of the picture to a latent pixel: near enough for counting."""


@dataclass(slots=True, eq=False)
class Held:
    """A job under this worker's lease."""

    lease: Lease
    journey: Journey
    load: float
    """Of a full batch."""
    solo: bool
    """Has ended attempts without an answer: drawn while nothing else is."""
    planned: Planned | None = None
    file: str | None = None
    """In the store."""
    blurred: str | None = None
    """Its name where the picture is blurred."""
    leads: bool = False
    """Draws that file, perhaps for others too."""
    following: bool = False
    """Waits for another that draws it."""


@dataclass(slots=True)
class Hand:
    """All of it, and whether there is room for more."""

    cap: RowCap
    limit: float
    """Full batches."""
    usual: int
    """Latent pixels of a usual picture."""
    jobs: dict[str, Held] = field(default_factory=dict[str, Held])

    def load_of(self, job: Job) -> float:
        """The part of a full batch that a job takes."""
        rows = 2 if job.recipe.guidance is not None and job.recipe.guidance > 1 else 1
        return rows / max(1, self.cap(max(1, job.pixels // LATENT**2)))

    def room(self, beyond: float = 0.0) -> int:
        """Jobs that may be taken now, `beyond` full batches above the limit."""
        if any(held.solo for held in self.jobs.values()):
            return 0
        left = self.limit + beyond - sum(held.load for held in self.jobs.values() if not held.following)
        return max(1, math.ceil(left * max(1, self.cap(self.usual)) - 1e-9)) if left > 1e-9 else 0

    def crowd(self) -> frozenset[str]:
        """Tenants who have their share of the room in hand already, so that it is others' turn."""
        loads: dict[str, float] = {}
        for held in self.jobs.values():
            if not held.following:
                tenant = held.lease.job.tenant
                loads[tenant] = loads.get(tenant, 0.0) + held.load
        return frozenset(tenant for tenant, load in loads.items() if load >= self.limit / (len(loads) + 1) - 1e-9)

    def alone(self, held: Held) -> bool:
        """Whether no other job is in the way of one that must be drawn alone; of several such the first goes first."""
        solos = [other for other in self.jobs.values() if other.solo]
        return len(solos) == len(self.jobs) and solos[0] is held

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self.jobs.values()))

    def __len__(self) -> int:
        return len(self.jobs)
