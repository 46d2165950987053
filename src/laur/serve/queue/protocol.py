"""What every queue does, for clients and for workers.

All methods may be called from one event loop. Those that change something may safely be called again after a
connection broke: a second call finds the work done.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from laur.serve.events import JobEvent
from laur.serve.job import Failure, Job, Record, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """How a queue behaves. All processes on one Redis should agree."""

    limit: int = 1000
    """Jobs that may wait or run at a time; beyond it `submit` raises BusyError."""
    tenant_limit: int | None = None
    """Jobs of one tenant that may wait in one pool; half of `limit` by default. In a queue that is half full no tenant
    gets more than its share of `limit`, among those who have jobs: as all are drawn for alike, nobody's last job then
    takes much longer than the queue is long, however it came to be filled."""
    lease: float = 15.0
    """Seconds after which a worker that has not renewed is taken for dead and its jobs go back."""
    max_attempts: int = 5
    """Beginnings after which a job that never ends is parked."""
    retry_delay: float = 0.5
    """Seconds before a failed attempt is repeated; doubles with each."""
    keep: float = 24 * 3600.0
    """Seconds that a finished job is remembered."""
    patience: float = 2.0
    """Seconds that a job may be passed over for one that a worker is better prepared for."""
    slack: float = 4.0
    """Work (in usual pictures) by which a tenant may be put ahead of its share for the same reason."""
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """Shares of tenants that are not 1."""
    namespace: str = "laur"
    """Prefix of all keys in Redis."""
    outage: float = 60.0
    """Seconds that a call waits for Redis to come back before it raises UnavailableError."""

    @property
    def reserved(self) -> int:
        """Jobs with which a tenant still gets in when others have filled the queue …"""
        return max(1, self.limit // 50)

    @property
    def hard_limit(self) -> int:
        """… up to a quarter above the limit."""
        return self.limit + self.limit // 4

    @property
    def per_tenant(self) -> int:
        """`tenant_limit`, or half of the whole."""
        return self.tenant_limit or max(1, self.limit // 2)

    def is_full(self, jobs: int, own: int, waiting: int, tenants: int) -> bool:
        """Whether it is to a tenant: `jobs` wait or run in all, `own` of its own, of which `waiting` wait in the pool,
        and `tenants`, with this one, have any. `submit.lua` says the same."""
        share = self.limit // tenants if 2 * jobs >= self.limit else self.limit
        limit = self.hard_limit if waiting < self.reserved else self.limit
        return jobs >= limit or waiting >= self.per_tenant or own >= max(self.reserved, share)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCard:
    """What a worker tells when it asks for jobs."""

    name: str
    """Unique among workers."""
    serves: frozenset[str] | None = None
    """`pool_of` each checkpoint that it may draw with; None is any."""
    size_class: int = 3
    """The largest class of size that fits."""
    holds: frozenset[str] = frozenset()
    """`pool_of` the checkpoints that are loaded: preferred."""
    adapters: frozenset[str] = frozenset()
    """`short_hash` of the adapters that are resident: preferred."""

    without: frozenset[str] = frozenset()
    """Tenants whose jobs are not wanted now."""

    def takes(self, pool: str) -> bool:
        """Whether jobs of this pool can be drawn here."""
        checkpoint, _, size = pool.rpartition(".")
        return int(size) <= self.size_class and (self.serves is None or checkpoint in self.serves)

    def fitness(self, pool: str, adapters: Sequence[str]) -> int:
        """How well prepared it is: 2 for the checkpoint, 1 for all the adapters."""
        loaded = pool.rpartition(".")[0] in self.holds
        resident = bool(adapters) and self.adapters.issuperset(adapters)
        return 2 * loaded + resident


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to draw a job, until it is not renewed in time."""

    job: Job
    worker: str
    token: str
    """Of this taking: a later one has another."""
    attempts: int
    """Beginnings before this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A queue at one moment."""

    waiting: int
    running: int
    """Under lease."""
    oldest: float
    """Seconds that the oldest waiting job has waited."""
    parked: int
    by_pool: Mapping[str, int]
    """Waiting jobs of each pool."""
    counters: Mapping[str, int]
    """Since the queue exists: submitted, refused, done, failed, cancelled, retries, leases_lost, deadlines, parked, and
    faults: what failed by no fault of the wish."""
    good: int = 0
    """Jobs of the last four weeks that were done …"""
    bad: int = 0
    """… and that failed by no fault of the wish: late, given up, an error of the server's own."""
    workers: int = 0
    """That asked for jobs or renewed leases within two leases' time."""


class Queue(Protocol):
    """Jobs in, results out, nothing lost in between."""

    options: QueueOptions

    async def submit(self, job: Job) -> Record:
        """Queue a job. An id that is known gives its record back. Raises BusyError where the queue is full."""
        ...

    async def remember(self, job: Job, result: Result) -> Record:
        """Record a job whose result was there before it began; takes no room. A known id gives its record back."""
        ...

    async def get(self, id: str) -> Record:
        """What is known of a job. Raises NotFoundError."""
        ...

    async def cancel(self, id: str) -> Record:
        """Make a job final, unless it is. Whoever draws it learns so at the next step. Raises NotFoundError."""
        ...

    def watch(self, id: str) -> AsyncGenerator[JobEvent]:
        """Where the job is, then what happens to it, up to `Ended`. Raises NotFoundError."""
        ...

    async def wait(self, id: str, timeout: float | None = None) -> Record:
        """The record once it is final, or as it is after `timeout` seconds. Raises NotFoundError."""
        ...

    async def stats(self) -> Stats:
        """Depth, age and counters."""
        ...

    async def parked(self, count: int = 100) -> list[Record]:
        """Jobs that were given up, the latest first, with their reasons."""
        ...

    async def revive(self, id: str) -> Record:
        """Queue a parked job again; its attempts and a deadline that has passed are forgotten. Raises NotFoundError."""
        ...

    async def claim(self, card: WorkerCard, count: int, *, block: float = 0.0) -> list[Lease]:
        """Take up to `count` jobs, waiting up to `block` seconds for the first."""
        ...

    async def peek(self, card: WorkerCard, count: int) -> list[Job]:
        """Some of the jobs that a worker may be given next, so that it can prepare; nothing is taken."""
        ...

    async def start(self, lease: Lease) -> bool:
        """Say that drawing begins, which counts as an attempt; False if the job is not ours any more."""
        ...

    async def publish(self, updates: Sequence[tuple[Lease, JobEvent]]) -> list[Lease]:
        """Tell watchers; returns the leases that are lost, cancelled or past their deadline."""
        ...

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """Keep leases for another `options.lease` seconds; returns those that are lost, as `publish`."""
        ...

    async def finish(self, lease: Lease, result: Result) -> bool:
        """Make the job done. True where this result counts; a job ends once, also if two workers drew it."""
        ...

    async def fail(self, lease: Lease, failure: Failure) -> None:
        """End an attempt: for good, or with `failure.retry` until the attempts are used up."""
        ...

    async def release(self, lease: Lease) -> None:
        """Hand a job back to be drawn by another; does not count as an attempt."""
        ...

    async def sweep(self) -> None:
        """Take back the jobs of dead workers, end those past their deadline, wake the delayed. Call it now and then."""
        ...

    async def ping(self) -> bool:
        """Whether the queue answers and takes jobs at this moment."""
        ...

    async def trouble(self) -> str | None:
        """Why it does not, in one line; None where it does."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...
