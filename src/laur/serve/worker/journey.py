"""One job's times in a worker: into histograms, and where traces are on into spans."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

from laur.pipeline.events import Call
from laur.serve.observe.logs import about
from laur.serve.observe.trace import Tracing
from laur.serve.queue import Lease
from laur.serve.worker.tally import Tally


class Journey:
    """From a lease to its end."""

    def __init__(self, lease: Lease, tally: Tally, tracing: Tracing) -> None:
        self.span = tracing.taken(lease)
        self._job, self._tally = lease.job, tally
        self._taken = time.perf_counter()
        self._calls: tuple[float, float] | None = None
        tally.stages["queue"].observe(self.age)

    @property
    def age(self) -> float:
        """Seconds since the job was submitted, by the clock of whoever did."""
        return max(0.0, time.time() - self._job.created)

    @property
    def held(self) -> float:
        """Seconds since this worker took it."""
        return time.perf_counter() - self._taken

    def about(self) -> AbstractContextManager[None]:
        """Lines of the log written inside name the job."""
        job = self._job
        return about(job=job.id, tenant=job.tenant, request_id=job.request, trace_id=self.span.trace_id)

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Around a stage; one that fails counts too."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.note(name, began, time.perf_counter())

    def note(self, name: str, began: float, ended: float) -> None:
        """A stage that is over, by `time.perf_counter`."""
        self._tally.stages[name].observe(ended - began)
        self.span.stage(name, began, ended)

    def moved(self, call: Call) -> None:
        """A denoiser call moved the job; `Tracing.call` makes the spans."""
        self._calls = (call.began if self._calls is None else self._calls[0], call.ended)

    def denoised(self) -> None:
        """All its steps are done: from its first call to its last, the turns of others in between."""
        if self._calls is not None:
            began, ended = self._calls
            self._tally.stages["denoise"].observe(ended - began)
