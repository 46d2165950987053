"""Prometheus metrics of the workers in a process. Label `engine` counts its engines from 0; `laur_engine_info` says
which device each is on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

if TYPE_CHECKING:
    from laur.pipeline.engine import Engine
    from laur.serve.observe.histogram import Histogram
    from laur.serve.worker.crew import Crew
    from laur.serve.worker.worker import Worker

Labels = dict[str, str]
ENGINE = "engine"


def of_crew(crew: Crew) -> Iterator[Metric]:
    """All of them."""
    workers = list(enumerate(crew.workers))
    yield from _work(workers)
    yield from _caches(workers)
    yield from _times(workers)
    engines = [(number, worker.thread.engine) for number, worker in workers if worker.thread.engine is not None]
    yield from _memory(engines)


def cache(name: str, what: str, counts: Sequence[tuple[Labels, float, float]]) -> Iterator[Metric]:
    """Hits and misses of a cache, and the share of hits; 0 before there were any."""
    labels = list(counts[0][0]) if counts else []
    hits = CounterMetricFamily(f"laur_cache_{name}_hits", f"{what}: found", labels=labels)
    misses = CounterMetricFamily(f"laur_cache_{name}_misses", f"{what}: not found", labels=labels)
    ratio = GaugeMetricFamily(f"laur_cache_{name}_hit_ratio", f"{what}: share found", labels=labels)
    for values, hit, miss in counts:
        own = list(values.values())
        hits.add_metric(own, hit)
        misses.add_metric(own, miss)
        ratio.add_metric(own, hit / (hit + miss) if hit + miss else 0.0)
    yield from (hits, misses, ratio)


Workers = list[tuple[int, "Worker"]]
Read = Callable[["Worker"], float]


def _gauge(name: str, what: str, workers: Workers, read: Read) -> Metric:
    found = GaugeMetricFamily(name, what, labels=[ENGINE])
    for number, worker in workers:
        found.add_metric([str(number)], read(worker))
    return found


def _counter(name: str, what: str, workers: Workers, read: Read) -> Metric:
    found = CounterMetricFamily(name, what, labels=[ENGINE])
    for number, worker in workers:
        found.add_metric([str(number)], read(worker))
    return found


def _work(workers: Workers) -> Iterator[Metric]:
    yield _gauge("laur_worker_ready", "Whether the worker takes jobs", workers, lambda w: float(w.ready))
    yield _gauge("laur_worker_jobs", "Jobs in hand", workers, lambda w: len(w.hand))
    lost = "Jobs dropped: cancelled, late or lost"
    yield _counter("laur_worker_leases_lost", lost, workers, lambda w: w.tally.lost)
    ended = CounterMetricFamily("laur_worker_ended", "Jobs that ended here", labels=[ENGINE, "state"])
    for number, worker in workers:
        for state in ("done", "failed", "other"):
            ended.add_metric([str(number), state], worker.tally.states[state])
    yield ended
    yield _counter("laur_engine_steps", "Denoiser calls", workers, lambda w: w.thread.pulse.calls)
    yield _counter("laur_engine_rows", "Rows moved by them", workers, lambda w: w.thread.pulse.rows)
    delayed = "Jobs that let others go first while their adapters were read"
    yield _counter("laur_adapters_delayed", delayed, workers, lambda w: w.thread.pulse.delayed)
    foreseen = "Jobs whose adapters were asked for while they waited in the queue"
    yield _counter("laur_adapters_foreseen", foreseen, workers, lambda w: w.thread.pulse.foreseen)


def _caches(workers: Workers) -> Iterator[Metric]:
    each = [({ENGINE: str(number)}, worker.tally) for number, worker in workers]
    yield from cache("store", "Files when planned", [(own, t.hits + t.collapsed, t.misses) for own, t in each])
    what = "Checkpoints when a job is taken"
    yield from cache("checkpoint", what, [(own, t.checkpoints.hits, t.checkpoints.misses) for own, t in each])
    what = "Adapters of a job, all of them, when it is taken"
    yield from cache("adapter", what, [(own, t.adapters.hits, t.adapters.misses) for own, t in each])
    collapsed = "Jobs that waited for one drawn alike"
    yield _counter("laur_cache_collapsed", collapsed, workers, lambda w: w.tally.collapsed)
    texts: list[tuple[Labels, float, float]] = []
    for number, worker in workers:
        if worker.thread.engine is not None:
            stats = worker.thread.engine.library.states.stats
            texts.append(({ENGINE: str(number)}, stats.hits, stats.misses))
    yield from cache("text", "Text states", texts)


def _times(workers: Workers) -> Iterator[Metric]:
    yield _one("laur_engine_step_seconds", "Seconds of a denoiser call", workers, lambda w: w.thread.pulse.step)
    share = "Rows of a denoiser call, as a share of a full one"
    yield _one("laur_engine_batch_occupancy", share, workers, lambda w: w.thread.pulse.occupancy)
    whole = "Seconds from submission to the end of jobs that are done"
    yield _one("laur_job_seconds", whole, workers, lambda w: w.tally.whole)
    stages = HistogramMetricFamily("laur_stage_seconds", "Seconds of the stages of jobs", labels=[ENGINE, "stage"])
    for number, worker in workers:
        for name, histogram in worker.tally.stages.items():
            stages.add_metric([str(number), name], histogram.buckets(), histogram.sum)
    yield stages


def _one(name: str, what: str, workers: Workers, read: Callable[[Worker], Histogram]) -> Metric:
    found = HistogramMetricFamily(name, what, labels=[ENGINE])
    for number, worker in workers:
        histogram = read(worker)
        found.add_metric([str(number)], histogram.buckets(), histogram.sum)
    return found


def _memory(engines: list[tuple[int, Engine]]) -> Iterator[Metric]:
    """What lies where, and what may."""
    info = GaugeMetricFamily("laur_engine_info", "1; what an engine is", labels=[ENGINE, "device", "dtype", "model"])
    reads = CounterMetricFamily("laur_adapters_read", "Adapters read from disk", labels=[ENGINE])
    budget = GaugeMetricFamily("laur_cache_bytes", "Adapters, texts and spare networks in memory", labels=[ENGINE])
    limit = GaugeMetricFamily("laur_cache_limit_bytes", "What they may take", labels=[ENGINE])
    gpu = GaugeMetricFamily("laur_gpu_memory_bytes", "Memory of the GPU", labels=[ENGINE, "kind"])
    for number, engine in engines:
        library, name = engine.library, str(number)
        place: Any = library.placement
        index = place.device.index
        device = place.device.type if index is None else f"{place.device.type}:{index}"
        info.add_metric([name, device, place.dtype_name, engine.checkpoint], 1)
        reads.add_metric([name], library.rows.store.reads)
        budget.add_metric([name], library.budget.used)
        limit.add_metric([name], library.budget.limit)
        if place.device.type == "cuda":
            for kind, size in _gpu(place.device).items():
                gpu.add_metric([name, kind], size)
    yield from (info, reads, budget, limit)
    if gpu.samples:
        yield gpu


def _gpu(device: Any) -> dict[str, int]:
    """`allocated` by tensors, `reserved` by PyTorch, `free` and `total` as the driver sees them."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return {"allocated": allocated, "reserved": reserved, "free": free, "total": total}
