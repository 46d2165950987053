"""Who is next: fair shares between tenants, priorities within one, and a preference for what a worker holds.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each tenant has a virtual time that grows by work over
weight with every job taken, and the tenant with the least is served. One that comes new, or back, starts at the clock,
so that nobody saves up a claim by staying away, and a flood waits behind its own jobs only.

A worker may take, of the first few jobs of the first few tenants, the one it is best prepared for, as long as that
tenant is not more than `slack` ahead; a job passed over so waits `patience` seconds at most.

`lua/` holds the same rules for Redis; one test suite runs against both.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

from laur.serve.queue.protocol import QueueOptions, WorkerCard

LOOK_TENANTS, LOOK_JOBS = 4, 4
"""How far a worker looks for what suits it."""


@dataclass(slots=True, order=True)
class Waiting:
    """A job that waits. Ordered as its tenant wants it."""

    priority: int
    number: int
    """Counts submissions; a job that is handed back keeps its own."""
    id: str = field(compare=False)
    pool: str = field(compare=False)
    tenant: str = field(compare=False)
    work: float = field(compare=False)
    adapters: tuple[str, ...] = field(compare=False)
    since: float = field(compare=False)
    passed: float | None = field(default=None, compare=False)
    """When it was first passed over."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    time: float
    """Virtual."""
    jobs: list[Waiting]


class Backlog:
    """The jobs that wait."""

    def __init__(self, options: QueueOptions) -> None:
        self._options = options
        self._pools: dict[str, dict[str, list[Waiting]]] = {}
        self._times: dict[str, float] = {}
        self._clock = 0.0

    def __iter__(self) -> Iterator[Waiting]:
        return (job for tenants in self._pools.values() for jobs in tenants.values() for job in jobs)

    def count(self, pool: str, tenant: str) -> int:
        """Jobs of a tenant that wait in a pool."""
        return len(self._pools.get(pool, {}).get(tenant, ()))

    def by_pool(self) -> dict[str, int]:
        """Jobs that wait, by pool."""
        return {pool: sum(map(len, tenants.values())) for pool, tenants in self._pools.items()}

    def add(self, job: Waiting) -> None:
        """Put a job in its place."""
        tenants = self._pools.setdefault(job.pool, {})
        if job.tenant not in tenants:
            self._times[job.tenant] = max(self._clock, self._times.get(job.tenant, 0.0))
        bisect.insort(tenants.setdefault(job.tenant, []), job)

    def remove(self, job: Waiting) -> None:
        """Take a job out without charging for it; nothing where it does not wait."""
        jobs = self._pools.get(job.pool, {}).get(job.tenant, [])
        if job not in jobs:
            return
        jobs.remove(job)
        if not jobs:
            del self._pools[job.pool][job.tenant]
        if not self._pools[job.pool]:
            del self._pools[job.pool]

    def take(self, card: WorkerCard, now: float) -> Waiting | None:
        """The next job for a worker, charged to its tenant."""
        candidates = sorted(self._candidates(card), key=lambda c: (c.time, c.jobs[0].number))
        if not candidates:
            return None
        job = self._choose(card, candidates, now)
        self.remove(job)
        start = self._times[job.tenant]
        self._clock = max(self._clock, start)
        self._times[job.tenant] = start + job.work / self._options.weights.get(job.tenant, 1.0)
        self._forget()
        return job

    def peek(self, card: WorkerCard, count: int) -> list[Waiting]:
        """The first jobs of those who are next."""
        candidates = sorted(self._candidates(card), key=lambda c: (c.time, c.jobs[0].number))
        return [job for candidate in candidates for job in candidate.jobs[:LOOK_JOBS]][:count]

    def _candidates(self, card: WorkerCard) -> Iterator[_Candidate]:
        for pool, tenants in self._pools.items():
            if card.takes(pool):
                wanted = (tenant for tenant in tenants if tenant not in card.without)
                least = sorted(wanted, key=lambda tenant: self._times[tenant])[:LOOK_TENANTS]
                yield from (_Candidate(self._times[tenant], tenants[tenant]) for tenant in least)

    def _choose(self, card: WorkerCard, candidates: list[_Candidate], now: float) -> Waiting:
        fair = candidates[0].jobs[0]
        if fair.passed is not None and now - fair.passed >= self._options.patience:
            return fair
        best, fitness = fair, card.fitness(fair.pool, fair.adapters)
        for candidate in candidates:
            if candidate.time > candidates[0].time + self._options.slack:
                break
            for job in candidate.jobs[:LOOK_JOBS]:
                if job.priority != candidate.jobs[0].priority:
                    break
                if (fits := card.fitness(job.pool, job.adapters)) > fitness:
                    best, fitness = job, fits
        if best is not fair and fair.passed is None:
            fair.passed = now
        return best

    def _forget(self) -> None:
        """Tenants that wait for nothing and owe nothing."""
        if len(self._times) > 2 * sum(map(len, self._pools.values())) + 64:
            waiting = {tenant for tenants in self._pools.values() for tenant in tenants}
            self._times = {t: time for t, time in self._times.items() if time > self._clock or t in waiting}
