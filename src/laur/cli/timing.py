"""What `laur bench` measures."""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from laur.core.recipe import DEFAULT_CHECKPOINT

if TYPE_CHECKING:
    from laur.core.recipe import Recipe
    from laur.pipeline.engine import Engine
    from laur.pipeline.resolve import Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds, medians where there were several runs."""

    what: str
    repeats: int
    batch: int
    cold: dict[str, float]
    """The parts of a cold start, measured once: there is only one first time in a process."""
    first_picture: float
    step: float
    decode: float
    one: float
    many: float
    """Of the whole batch."""
    peak_bytes: int | None
    """Of this process's memory; None where the system does not tell."""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        rates = {"pictures_per_second": 1 / self.one, "pictures_per_second_in_batch": self.batch / self.many}
        return {**asdict(self), **rates}


def measure(
    recipe: Recipe, *, batch: int, repeats: int, device: str | None, dtype: str | None, begun: float
) -> Timings:
    """Draw `recipe` cold, then warm, alone and in a batch. `begun` is when the process started."""
    cold: dict[str, float] = {"start of the program": time.perf_counter() - begun}
    engine, job = _cold(recipe, cold, device, dtype)
    first_picture = time.perf_counter() - begun
    jobs = [engine.resolve(job.recipe.replace(seed=(job.recipe.seed or 0) + index)) for index in range(batch)]
    steps: list[float] = []
    decodes: list[float] = []
    alone: list[float] = []
    together: list[float] = []
    _draw(engine, jobs)
    for _ in range(repeats):
        alone.append(_draw(engine, [job], steps, decodes))
        together.append(_draw(engine, jobs))
    made = job.recipe
    place = engine.library.placement
    return Timings(
        what=f"{made.checkpoint} {made.width}x{made.height}, {made.steps} steps, {made.sampler}, "
        f"{place.device} {place.dtype_name}",
        repeats=repeats,
        batch=batch,
        cold=cold,
        first_picture=first_picture,
        step=statistics.median(steps),
        decode=statistics.median(decodes),
        one=statistics.median(alone),
        many=statistics.median(together),
        peak_bytes=_peak_bytes(),
    )


def _cold(recipe: Recipe, parts: dict[str, float], device: str | None, dtype: str | None) -> tuple[Engine, Resolved]:
    with _timed(parts, "import torch"):
        importlib.import_module("torch")
    with _timed(parts, "open the checkpoint"):
        from laur.pipeline.engine import Engine

        engine = Engine(recipe.checkpoint or DEFAULT_CHECKPOINT, device=device, dtype=dtype)
    with _timed(parts, "plan, read the text encoder"):
        job = engine.resolve(recipe)
    stage = job.plan.stages[0]
    with _timed(parts, "read the denoiser and adapters"):
        engine.library.ready(stage)
    with _timed(parts, "read the decoder"):
        engine.library.decoder(stage.checkpoint)
    with _timed(parts, "first picture"):
        _draw(engine, [job])
    return engine, job


def _draw(
    engine: Engine, jobs: list[Resolved], steps: list[float] | None = None, decodes: list[float] | None = None
) -> float:
    """Seconds of a run; the times of its steps and its decode are added where they are asked for."""
    from laur.pipeline.events import Done, Progress

    before = begun = time.perf_counter()
    for event in engine.stream(jobs):
        if isinstance(event, Progress) and steps is not None:
            steps.append(event.at - before)
        if isinstance(event, Done) and decodes is not None:
            decodes.append(event.at - before)
        before = event.at
    return time.perf_counter() - begun


@contextmanager
def _timed(parts: dict[str, float], name: str) -> Generator[None]:
    begun = time.perf_counter()
    yield
    parts[name] = time.perf_counter() - begun


def _peak_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
