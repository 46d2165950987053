"""Traces with OpenTelemetry. Imported only where they are on."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from laur import __version__
from laur.core.errors import MissingDependencyError, NotFoundError
from laur.serve.observe.trace import JobSpan, RequestSpan, Tracing

try:
    from opentelemetry import propagate
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context
except ImportError:
    raise MissingDependencyError(
        "OTEL_* variables ask for traces, which need OpenTelemetry; install it with: pip install 'lcm-laur[trace]'"
    ) from None

if TYPE_CHECKING:
    from laur.pipeline.events import Call
    from laur.serve.job import Job
    from laur.serve.queue import Lease

GROUP = "opentelemetry_traces_exporter"
OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""From OTEL_EXPORTER_OTLP_PROTOCOL to what the packages call their exporters."""
LONGEST = 512
"""Characters of a header that a job carries; a longer tracestate stays behind."""
GOOD = frozenset({"done", "cancelled", "handed back"})
"""Outcomes that are no fault of ours."""


def open_exporting(service: str, exporters: Sequence[str], values: Mapping[str, str]) -> OtelTracing:
    """Spans in batches to exporters by name. Raises NotFoundError, MissingDependencyError."""
    own = {"service.version": __version__}
    if "OTEL_SERVICE_NAME" not in values and "service.name=" not in values.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        own["service.name"] = service
    provider = TracerProvider(resource=Resource.create(own))
    for name in exporters:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name, values)))
    return OtelTracing(provider)


def _exporter(name: str, values: Mapping[str, str]) -> Any:
    wanted = name
    if name == "otlp":
        general = values.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
        protocol = values.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or general
        wanted = OTLP.get(protocol, protocol)
    found = list(entry_points(group=GROUP, name=wanted))
    if not found and wanted in OTLP.values():
        package = f"opentelemetry-exporter-{wanted.replace('_', '-')}"
        raise MissingDependencyError(f"the exporter {wanted} is not installed; install it with: pip install {package}")
    if not found:
        known = sorted({entry.name for entry in entry_points(group=GROUP)} | {"otlp", "none"})
        raise NotFoundError(f"no exporter of traces is called {wanted[:80]!r}; there are {', '.join(known)}")
    return found[0].load()()


class OtelRequest(RequestSpan):
    """See `RequestSpan`."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.trace_id = _id(span)

    def answered(self, route: str, status: int) -> None:
        """See `RequestSpan`."""
        method = route.partition(" ")[0]
        self._span.update_name(route)
        self._span.set_attributes(
            {"http.route": route[len(method) + 1 :] or route, "http.response.status_code": status}
        )
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)


class OtelJob(JobSpan):
    """See `JobSpan`."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self.span = span
        self.trace_id = _id(span)
        self.context = set_span_in_context(span)
        self._tracer = tracer

    def stage(self, name: str, began: float, ended: float, **attributes: Any) -> None:
        """See `JobSpan`."""
        self.add(name, began, ended, attributes)

    def add(
        self, name: str, began: float, ended: float, attributes: dict[str, Any], links: Sequence[Link] = ()
    ) -> Span | None:
        """The span of a stage; None where this trace is not recorded."""
        if not self.span.is_recording():
            return None
        named = {f"laur.{key}": value for key, value in attributes.items()}
        start = _moment(began)
        span = self._tracer.start_span(name, self.context, attributes=named, links=links, start_time=start)
        span.end(start + int((ended - began) * 1e9))
        return span

    def end(self, outcome: str) -> None:
        """See `JobSpan`."""
        self.span.set_attribute("laur.job.outcome", outcome)
        if outcome not in GOOD:
            self.span.set_status(StatusCode.ERROR, outcome)
        self.span.end()


class OtelTracing(Tracing):
    """See `Tracing`."""

    on = True

    def __init__(self, provider: TracerProvider) -> None:
        """`provider` says where spans go; it ends with us."""
        self._provider = provider
        self._tracer = provider.get_tracer("laur", __version__)

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Generator[RequestSpan]:
        """See `Tracing`."""
        attributes = {"http.request.method": method, "url.path": path}
        with self._tracer.start_as_current_span(
            method, propagate.extract(headers), SpanKind.SERVER, attributes=attributes
        ) as span:
            yield OtelRequest(span)

    @contextmanager
    def sending(self, job: Job) -> Generator[dict[str, str]]:
        """See `Tracing`."""
        attributes = {**_about(job), "messaging.operation.type": "send"}
        with self._tracer.start_as_current_span("submit job", kind=SpanKind.PRODUCER, attributes=attributes):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            yield {name: value for name, value in carrier.items() if len(value) <= LONGEST}

    def taken(self, lease: Lease) -> JobSpan:
        """See `Tracing`. How long the job waited is a span of its own, by the clock of whoever submitted it."""
        job, now = lease.job, time.time_ns()
        parent = propagate.extract(dict(job.trace))
        since = min(now, int(job.created * 1e9))
        attributes = {**_about(job), "laur.job.attempt": lease.attempts + 1, "laur.worker": lease.worker}
        self._tracer.start_span("queue", parent, attributes=attributes, start_time=since).end(now)
        attributes["messaging.operation.type"] = "process"
        span = self._tracer.start_span("draw job", parent, SpanKind.CONSUMER, attributes, start_time=now)
        return OtelJob(self._tracer, span)

    def call(self, call: Call, moved: Sequence[tuple[JobSpan, int]]) -> None:
        """See `Tracing`. The first job's span of the call links to all the other jobs, and theirs link to it."""
        jobs = [(job, step) for job, step in moved if isinstance(job, OtelJob) and job.span.is_recording()]
        shared: Sequence[Link] = [Link(job.span.get_span_context()) for job, _ in jobs[1:]]
        for job, step in jobs:
            attributes = {"step": step, "batch.jobs": len(moved), "batch.rows": call.rows, "batch.full": call.full}
            span = job.add("denoise", call.began, call.ended, attributes, shared)
            if span is not None and job is jobs[0][0]:
                shared = [Link(span.get_span_context())]

    def close(self) -> None:
        """See `Tracing`."""
        self._provider.shutdown()


def _about(job: Job) -> dict[str, Any]:
    return {
        "messaging.system": "laur",
        "messaging.destination.name": job.pool,
        "messaging.message.id": job.id,
        "laur.tenant": job.tenant,
        "laur.job.priority": job.priority,
    }


def _id(span: Span) -> str:
    return format_trace_id(span.get_span_context().trace_id)


def _moment(counted: float) -> int:
    """Nanoseconds since 1970 from `time.perf_counter`."""
    return time.time_ns() - int((time.perf_counter() - counted) * 1e9)
