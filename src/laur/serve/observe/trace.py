"""Traces: from a request through the queue to the stages of its pictures. Off unless OTEL_* variables ask for them.

The classes here do nothing: what is off costs a call, and OpenTelemetry is not imported. `otel.py` has the others. A
job carries its context through the queue as W3C headers (`Job.trace`), so that a worker goes on with the trace that a
client, or a proxy before the server, began.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laur.pipeline.events import Call
    from laur.serve.job import Job
    from laur.serve.queue import Lease

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class RequestSpan:
    """A request that is being answered."""

    trace_id: str | None = None
    """32 hexadecimal digits."""

    def answered(self, route: str, status: int) -> None:
        """Say which route it was, and the status of the answer."""


class JobSpan:
    """A job in a worker's hands."""

    trace_id: str | None = None

    def stage(self, name: str, began: float, ended: float, **attributes: Any) -> None:
        """Something that was done for it, by `time.perf_counter`."""

    def end(self, outcome: str) -> None:
        """It has left this worker: done, failed, lost …"""


class Tracing:
    """Off."""

    on = False

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Generator[RequestSpan]:
        """Around an answer; headers in lower case."""
        del method, path, headers
        yield _REQUEST

    @contextmanager
    def sending(self, job: Job) -> Generator[dict[str, str]]:
        """Around submitting a job; gives what the job is to carry."""
        del job
        yield {}

    def taken(self, lease: Lease) -> JobSpan:
        """A worker has taken a job."""
        del lease
        return _JOB

    def call(self, call: Call, moved: Sequence[tuple[JobSpan, int]]) -> None:
        """A denoiser call moved jobs, each to the step beside it."""

    def close(self) -> None:
        """Send what is left. Blocks."""


_REQUEST, _JOB = RequestSpan(), JobSpan()
OFF = Tracing()


def open_tracing(service: str, environment: Mapping[str, str] | None = None) -> Tracing:
    """As the standard variables say: OTEL_TRACES_EXPORTER, or an OTLP endpoint, switches traces on.

    `service` is the name where OTEL_SERVICE_NAME gives none. Raises MissingDependencyError, NotFoundError.
    """
    values = os.environ if environment is None else environment
    names = [name.strip() for name in values.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    if not names and any(values.get(name) for name in ENDPOINTS):
        names = ["otlp"]
    if not names or names == ["none"] or values.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return OFF
    from laur.serve.observe.otel import open_exporting

    return open_exporting(service, names, values)
