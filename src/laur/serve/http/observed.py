"""Around everything that a server answers: the request's id, its line in the log, its time, its span.

It stands outside the application's own handling of errors, so that an unexpected fault has its id and line as well.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections import Counter, defaultdict

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from laur.serve.job import is_tenant
from laur.serve.observe.histogram import WHOLE, Histogram
from laur.serve.observe.logs import about
from laur.serve.observe.trace import RequestSpan, Tracing

LOG = logging.getLogger("laur.access")
HEADER = b"x-request-id"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=/+-]{0,127}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLOSED = 499
"""The status in logs and metrics where the client went away before there was any."""


class Requests:
    """What was answered, and how fast."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, int]] = Counter()
        """By route (method and template) and status."""
        self.seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(WHOLE))
        """By route."""
        self.open = 0

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.answered[route, status] += 1
        self.seconds[route].observe(seconds)


class Observed:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, requests: Requests, tracing: Tracing) -> None:
        self._app, self._requests, self._tracing = app, requests, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        answer = _Answer(send, _id_of(headers))
        with (
            self._tracing.request(_method(scope), scope["path"][:200], headers) as span,
            about(request_id=answer.id, trace_id=span.trace_id),
        ):
            began = time.perf_counter()
            self._requests.open += 1
            try:
                await self._app(scope, receive, answer.send)
            except Exception:
                answer.status = answer.status or 500
                raise
            finally:
                self._requests.open -= 1
                self._finish(scope, span, answer, time.perf_counter() - began)

    def _finish(self, scope: Scope, span: RequestSpan, answer: _Answer, seconds: float) -> None:
        status, route = answer.status or CLOSED, _route(scope)
        self._requests.count(route, status, seconds)
        span.answered(route, status)
        path: str = scope["path"][:200]  # without the query: it may hold what nobody should read
        client = (scope.get("client") or ("",))[0]
        fields = {"method": scope["method"][:20], "path": path, "route": route, "status": status}
        fields |= {"tenant": tenant} if (tenant := _tenant(scope)) else {}
        LOG.info(
            "%s %s %d in %.0f ms", fields["method"], path, status, 1000 * seconds,
            extra={**fields, "seconds": round(seconds, 6), "bytes": answer.bytes, "client": client},
        )  # fmt: skip


class _Answer:
    """What goes out, with the request's id among its headers."""

    def __init__(self, send: Send, number: str) -> None:
        self._send = send
        self.id = number
        self.status: int | None = None
        self.bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (HEADER, self.id.encode())]
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
        await self._send(message)


def _id_of(headers: dict[str, str]) -> str:
    """The client's own id if it has a plain one, else a new one."""
    given = headers.get(HEADER.decode(), "")
    return given if _ID.fullmatch(given) else secrets.token_hex(16)


def _tenant(scope: Scope) -> str | None:
    """Whose key it was, else who the client says it is."""
    if (key := scope.get("state", {}).get("key")) is not None:
        return key.tenant
    named = dict(scope["headers"]).get(b"laur-tenant", b"").decode("latin-1")
    return named if is_tenant(named) else None


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "OTHER"


def _route(scope: Scope) -> str:
    """Method and template of the path, so that there are few; `other` for what no route takes."""
    template = getattr(scope.get("route"), "path", None)
    return f"{_method(scope)} {template}" if template else "other"
