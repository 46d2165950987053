"""Prometheus metrics of one process, read when they are asked for: the queue, the server, the process itself.

Figures of the queue are the same from every process on it: take the largest, not the sum. What workers tell is in
`worker_metrics.py`. Labels have few values: no job, tenant, prompt or name of a client's is one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from laur import __version__
from laur.core.errors import UnavailableError
from laur.serve.http.observed import Requests
from laur.serve.http.worker_metrics import cache, of_crew
from laur.serve.observe.objective import Objective
from laur.serve.queue import Queue, Stats
from laur.serve.service import Service
from laur.serve.worker.crew import Crew

if TYPE_CHECKING:
    from prometheus_client.registry import Collector
    from starlette.datastructures import State

router = APIRouter(tags=["health"])
TEXT = "text/plain; version=0.0.4; charset=utf-8"
EVENTS = (
    "submitted", "refused", "done", "failed", "faults", "cancelled", "retries", "leases_lost", "deadlines", "parked",
)  # fmt: skip
"""What queues count; those that never happened are told as 0."""


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}},
)
async def metrics(request: Request) -> Response:
    """Queue depth and age, jobs by outcome, error budget, caches, batches, steps and stages, memory, requests."""
    state = request.app.state
    queue: Queue = state.queue
    stats: Stats | None = None
    with contextlib.suppress(UnavailableError):
        stats = await queue.stats()
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Now(stats, state))
    return Response(generate_latest(registry), media_type=TEXT)


class _Now:
    """The figures of this moment, as a collector."""

    def __init__(self, stats: Stats | None, state: State) -> None:
        self._stats, self._state = stats, state

    def collect(self) -> Iterator[Metric]:
        service: Service | None = getattr(self._state, "service", None)
        crew: Crew | None = self._state.crew
        yield InfoMetricFamily("laur_build", "Version of Laur", value={"version": __version__})
        yield GaugeMetricFamily("laur_queue_up", "Whether the queue answers", value=float(self._stats is not None))
        if self._stats is not None:
            yield from _queue(self._stats)
            if service is not None:
                yield from _objective(self._stats, service.objective)
        if service is not None:
            yield from cache(
                "submission", "Results at submission", [({}, service.counts["hit"], service.counts["miss"])]
            )
            yield from _requests(self._state.requests)
        if crew is not None:
            yield from of_crew(crew)


def _queue(stats: Stats) -> Iterator[Metric]:
    yield GaugeMetricFamily("laur_queue_waiting", "Jobs that wait", value=stats.waiting)
    yield GaugeMetricFamily("laur_queue_running", "Jobs under lease", value=stats.running)
    yield GaugeMetricFamily("laur_queue_oldest_seconds", "Age of the oldest waiting job", value=stats.oldest)
    yield GaugeMetricFamily("laur_queue_parked", "Jobs that were given up", value=stats.parked)
    yield GaugeMetricFamily("laur_queue_workers", "Workers that the queue heard of lately", value=stats.workers)
    pools = GaugeMetricFamily("laur_queue_pool_waiting", "Waiting jobs by checkpoint and size class", labels=["pool"])
    for pool, waiting in stats.by_pool.items():
        pools.add_metric([pool], waiting)
    yield pools
    counters = CounterMetricFamily("laur_jobs", "What happened in the queue since it exists", labels=["event"])
    for name in EVENTS:
        counters.add_metric([name], stats.counters.get(name, 0))
    yield counters


def _objective(stats: Stats, objective: Objective) -> Iterator[Metric]:
    good, bad = stats.good, stats.bad
    ends = GaugeMetricFamily("laur_objective_jobs", "Jobs of the last four weeks by outcome", labels=["outcome"])
    ends.add_metric(["good"], good)
    ends.add_metric(["bad"], bad)
    yield ends
    yield GaugeMetricFamily("laur_objective_ratio", "Share of jobs that is to be done", value=objective.share)
    yield GaugeMetricFamily("laur_success_ratio", "Share of jobs that was done", value=objective.success(good, bad))
    left = objective.budget_left(good, bad)
    yield GaugeMetricFamily("laur_error_budget_left_ratio", "1 is all of it, below 0 it is overdrawn", value=left)


def _requests(requests: Requests) -> Iterator[Metric]:
    answered = CounterMetricFamily("laur_http_requests", "Answers by route and status", labels=["route", "status"])
    for (route, status), count in list(requests.answered.items()):
        answered.add_metric([route, str(status)], count)
    yield answered
    seconds = HistogramMetricFamily("laur_http_request_seconds", "Seconds to the end of an answer", labels=["route"])
    for route, histogram in list(requests.seconds.items()):
        seconds.add_metric([route], histogram.buckets(), histogram.sum)
    yield seconds
    yield GaugeMetricFamily("laur_http_requests_open", "Requests being answered", value=requests.open)


if TYPE_CHECKING:
    _: type[Collector] = _Now  # pyright: ignore
