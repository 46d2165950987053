"""One frame of `laur top`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from laur.serve.observe.scraped import Group, Spread, grown, most, total

if TYPE_CHECKING:
    from laur.serve.observe.scraped import Scraped

NOTHING = "–"
CACHES = (
    ("submission", "results"),
    ("store", "files"),
    ("text", "texts"),
    ("adapter", "adapters"),
    ("checkpoint", "checkpoints"),
)


def frame(now: Group, before: Group, urls: Sequence[str]) -> Stack:
    """Everything: facts in lines, then a row for each engine. `before` is an earlier look."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    for name, text in (
        ("queue", _queue(now)),
        ("pictures", _pictures(now, before)),
        ("steps", _steps(now, before)),
        ("caches", _caches(now)),
        ("objective", _objective(now)),
    ):
        facts.add_row(name, Text(text))
    for url in urls:
        if all(one.url != url for one in now):
            facts.add_row(url, Text("does not answer", style="red"))
    return Stack(facts, Text(), _engines(now, before))


def _queue(now: Group) -> str:
    if not most(now, "laur_queue_up"):
        return "does not answer"
    waiting, running, parked, workers = (
        int(most(now, f"laur_queue_{name}") or 0) for name in ("waiting", "running", "parked", "workers")
    )
    oldest = most(now, "laur_queue_oldest_seconds") or 0.0
    people = f"{workers} worker{'s' * (workers != 1)}"
    return f"{waiting} waiting, {running} running, oldest {oldest:.1f} s, {parked} parked; {people}"


def _pictures(now: Group, before: Group) -> str:
    events = {name: int(most(now, "laur_jobs_total", event=name) or 0) for name in ("done", "failed", "refused")}
    seconds = now[0].at - before[0].at if now and before else 0.0
    done = events["done"] - (most(before, "laur_jobs_total", event="done") or 0)
    rate = f"{max(0.0, done) / seconds:.2f}/s" if seconds > 0 else NOTHING
    spread = Spread.of(now, before, "laur_job_seconds")
    times = f"p50 {_seconds(spread.quantile(0.5))}, p95 {_seconds(spread.quantile(0.95))} from submission"
    return f"{rate}; {times}; {', '.join(f'{count} {name}' for name, count in events.items())}"


def _steps(now: Group, before: Group) -> str:
    spread = Spread.of(now, before, "laur_engine_step_seconds")
    full = Spread.of(now, before, "laur_engine_batch_occupancy").mean
    calls, rows = total(now, "laur_engine_steps_total"), total(now, "laur_engine_rows_total")
    each = f"{rows / calls:.1f} rows" if calls else NOTHING
    times = f"{_seconds(spread.mean)} mean, p95 {_seconds(spread.quantile(0.95))}"
    return f"{times}; {each} a step, batches {_percent(full)} full"


def _caches(now: Group) -> str:
    said: list[str] = []
    for name, shown in CACHES:
        hits, misses = (total(now, f"laur_cache_{name}_{what}_total") for what in ("hits", "misses"))
        said.append(f"{shown} {_percent(hits / (hits + misses) if hits + misses else None)}")
    return ", ".join(said)


def _objective(now: Group) -> str:
    share, success = most(now, "laur_objective_ratio"), most(now, "laur_success_ratio")
    retries, lost = (int(most(now, "laur_jobs_total", event=name) or 0) for name in ("retries", "leases_lost"))
    tried = f"{retries} retries, {lost} leases lost"
    if share is None or success is None:
        return tried
    left = most(now, "laur_error_budget_left_ratio")
    return f"{success:.2%} done of {share:.2%}, error budget {_percent(left)} left; {tried}"


def _engines(now: Group, before: Group) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("engine", "device", "model", "state"):
        table.add_column(name)
    for name in ("jobs", "steps/s", "step", "full", "memory"):
        table.add_column(name, justify="right")
    for one in now:
        old = [other for other in before if other.url == one.url]
        for labels, _ in one.of("laur_engine_info"):
            table.add_row(*_engine(one, old, labels, short=len({other.url for other in now}) == 1))
    return table


def _engine(one: Scraped, old: Group, labels: dict[str, str], *, short: bool) -> list[str]:
    engine = labels["engine"]
    seconds = one.at - old[0].at if old else 0.0
    steps = grown([one], old, "laur_engine_steps_total", engine=engine) / seconds if seconds > 0 else None
    spread = Spread.of([one], old, "laur_engine_step_seconds", engine=engine)
    full = Spread.of([one], old, "laur_engine_batch_occupancy", engine=engine).mean
    ready = most([one], "laur_worker_ready", engine=engine)
    gpu = most([one], "laur_gpu_memory_bytes", engine=engine, kind="reserved")
    memory = most([one], "process_resident_memory_bytes") if gpu is None else gpu
    return [
        engine if short else f"{one.url.partition('://')[2]}/{engine}",
        labels["device"],
        labels["model"],
        "ready" if ready else "not ready",
        f"{most([one], 'laur_worker_jobs', engine=engine) or 0:.0f}",
        NOTHING if steps is None else f"{steps:.1f}",
        _seconds(spread.mean),
        _percent(full),
        NOTHING if memory is None else f"{memory / 2**30:.2f} GiB",
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.0f} %"
