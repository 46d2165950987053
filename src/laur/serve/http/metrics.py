"""Prometheus metrics of one process, read when they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from laur.core.errors import UnavailableError
from laur.serve.queue import Queue, Stats
from laur.serve.service import Service
from laur.serve.worker.worker import Worker

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

router = APIRouter(tags=["health"])
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}},
)
async def metrics(request: Request) -> Response:
    """Queue depth and age, cache hits, batch occupancy, step time, jobs by outcome."""
    state = request.app.state
    queue: Queue = state.queue
    stats: Stats | None = None
    with contextlib.suppress(UnavailableError):
        stats = await queue.stats()
    registry = CollectorRegistry()
    registry.register(_Now(stats, getattr(state, "service", None), state.worker))
    return Response(generate_latest(registry), media_type=TEXT)


class _Now:
    """The figures of this moment, as a collector."""

    def __init__(self, stats: Stats | None, service: Service | None, worker: Worker | None) -> None:
        self._stats, self._service, self._worker = stats, service, worker

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("laur_queue_up", "Whether the queue answers", value=float(self._stats is not None))
        if self._stats is not None:
            yield from _queue(self._stats)
        if self._service is not None:
            yield from _cache("submission", self._service.counts["hit"], self._service.counts["miss"])
        if self._worker is not None:
            yield from _worker(self._worker)


def _queue(stats: Stats) -> Iterator[Metric]:
    yield GaugeMetricFamily("laur_queue_waiting", "Jobs that wait", value=stats.waiting)
    yield GaugeMetricFamily("laur_queue_running", "Jobs under lease", value=stats.running)
    yield GaugeMetricFamily("laur_queue_oldest_seconds", "Age of the oldest waiting job", value=stats.oldest)
    yield GaugeMetricFamily("laur_queue_parked", "Jobs that were given up", value=stats.parked)
    pools = GaugeMetricFamily("laur_queue_pool_waiting", "Waiting jobs by pool", labels=["pool"])
    for pool, waiting in stats.by_pool.items():
        pools.add_metric([pool], waiting)
    yield pools
    counters = CounterMetricFamily("laur_jobs", "What happened in the queue since it exists", labels=["event"])
    for name, value in stats.counters.items():
        counters.add_metric([name], value)
    yield counters


def _cache(name: str, hits: float, misses: float) -> Iterator[Metric]:
    for what, value in (("hits", hits), ("misses", misses)):
        yield CounterMetricFamily(f"laur_cache_{name}_{what}", f"Results at {name}: {what}", value=value)
    ratio = hits / (hits + misses) if hits + misses else 0.0
    yield GaugeMetricFamily(f"laur_cache_{name}_hit_ratio", f"Share of hits at {name}", value=ratio)


def _worker(worker: Worker) -> Iterator[Metric]:
    tally, pulse = worker.tally, worker.thread.pulse
    yield from _cache("store", tally.hits + tally.collapsed, tally.misses)
    yield CounterMetricFamily("laur_cache_collapsed", "Jobs that waited for one drawn alike", value=tally.collapsed)
    yield GaugeMetricFamily("laur_worker_ready", "Whether the worker takes jobs", value=float(worker.ready))
    yield GaugeMetricFamily("laur_worker_jobs", "Jobs in hand", value=len(worker.hand))
    yield CounterMetricFamily("laur_worker_leases_lost", "Jobs dropped: cancelled, late or lost", value=tally.lost)
    yield CounterMetricFamily("laur_engine_steps", "Denoiser calls", value=pulse.calls)
    yield CounterMetricFamily("laur_engine_rows", "Pictures moved by them", value=pulse.rows)
    yield CounterMetricFamily("laur_engine_step_seconds", "Seconds that they took", value=pulse.seconds)
    ended = CounterMetricFamily("laur_worker_ended", "Jobs that ended here", labels=["state"])
    for state, value in tally.states.items():
        ended.add_metric([state], value)
    yield ended


if TYPE_CHECKING:
    _: type[Collector] = _Now  # pyright: ignore
