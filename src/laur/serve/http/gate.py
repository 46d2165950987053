"""The door: with API keys nothing but the probes answers without one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from laur.core.errors import UnavailableError
from laur.serve.access.allowance import Allowance
from laur.serve.access.keys import Key, Keys, presented
from laur.serve.access.links import Links
from laur.serve.http.problem import problem

OPEN = frozenset({"/health/live", "/health/ready", "/health-check"})
PICTURES = "/v1/pictures/"


class Gate:
    """ASGI middleware. What it lets through has the key at `request.state.key`."""

    def __init__(
        self, app: ASGIApp, *, keys: Keys, allowance: Allowance, links: Links, open_metrics: bool = False
    ) -> None:
        self._app, self._keys, self._allowance, self._links = app, keys, allowance, links
        self._open = OPEN | {"/metrics"} if open_metrics else OPEN
        self.refused: Counter[int] = Counter()
        """By status."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and (answer := await self._answer(scope)) is not None:
            self.refused[answer.status_code] += 1
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response | None:
        """Why a request does not come in."""
        path: str = scope["path"]
        if path in self._open:
            return None
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        key = self._keys.find(presented(headers.get(b"authorization")))
        if key is None:
            query = scope.get("query_string", b"").decode("latin-1")
            if path.startswith(PICTURES) and scope["method"] in {"GET", "HEAD"} and self._links.opens(path, query):
                return None
            return unknown(headers.get(b"authorization"))
        if (refusal := _forbidden(key, path, headers) or await self._too_many(key)) is not None:
            return refusal
        scope["state"] = {**scope.get("state", {}), "key": key}
        return None

    async def _too_many(self, key: Key) -> Response | None:
        try:
            wait = await self._allowance.request(key)
        except UnavailableError as error:
            return problem(503, str(error), "UnavailableError", {"Retry-After": str(error.retry_after)})
        if wait <= 0:
            return None
        seconds = math.ceil(wait)
        detail = f"this key makes at most {key.requests_per_second:g} requests a second; try again in {seconds} s"
        return problem(429, detail, "LimitError", {"Retry-After": str(seconds)})


def _forbidden(key: Key, path: str, headers: Mapping[bytes, str]) -> Response | None:
    if headers.get(b"laur-tenant", key.tenant) != key.tenant:
        return problem(403, f"this key is {key.tenant}'s; leave the header Laur-Tenant out", "PermissionError")
    if path == "/metrics" and not key.metrics:
        return problem(403, "this key does not read metrics; its entry must say metrics = true", "PermissionError")
    return None


def unknown(authorization: str | None) -> Response:
    """401, with what clients may try."""
    detail = "this API key is not known here, or no longer" if authorization else "an API key is needed"
    detail += "; send it as Authorization: Bearer KEY, or as the password of basic auth"
    return problem(401, detail, "invalid_api_key", {"WWW-Authenticate": 'Bearer realm="laur", Basic realm="laur"'})
