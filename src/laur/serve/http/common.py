"""What routes share: the service, who asks, files with their caching headers, streams of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import Response, StreamingResponse

from laur.core.errors import LaurError
from laur.serve.access.keys import Key
from laur.serve.job import DEFAULT_TENANT, Result
from laur.serve.service import Service

HEARTBEAT = 15.0
"""Seconds without news after which a stream says that it is alive."""
FOREVER = "max-age=31536000, immutable"
"""For an address that holds the content's hash: what is there never changes."""
ASK_AGAIN = "no-cache"
"""For any other address: to be kept, and asked for again by its ETag at each use."""


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    key: Key | None = getattr(request.state, "key", None)
    return service if key is None else service.of(key, request.app.state.allowance)


async def _tenant(
    request: Request,
    laur_tenant: Annotated[
        str | None, Header(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$", description="Who shares fairly with whom.")
    ] = None,
) -> str:
    key: Key | None = getattr(request.state, "key", None)
    return key.tenant if key is not None else laur_tenant or DEFAULT_TENANT


TheService = Annotated[Service, Depends(_service)]
Tenant = Annotated[str, Depends(_tenant)]


async def file_answer(request: Request, service: Service, result: Result) -> Response:
    """The file of a result under its job's address, or 304 where the client has it."""
    headers = file_headers(request, f'"{result.sha256}"', ASK_AGAIN)
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(await service.content(result), media_type=result.media_type, headers=headers)


def file_headers(request: Request, etag: str, keep: str) -> dict[str, str]:
    """How long a file may be kept, and by whom: where keys are in force by nobody but the client."""
    whose = "private" if getattr(request.app.state, "allowance", None) is not None else "public"
    return {"ETag": etag, "Cache-Control": f"{whose}, {keep}", "X-Content-Type-Options": "nosniff"}


def matches(wanted: str | None, etag: str) -> bool:
    """Whether If-None-Match names this ETag."""
    names = [part.strip().removeprefix("W/") for part in (wanted or "").split(",")]
    return etag in names or names == ["*"]


def event_stream(events: AsyncIterator[tuple[str | None, Any]]) -> StreamingResponse:
    """Server-sent events from (name, JSON) pairs."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_lines(events), media_type="text/event-stream", headers=headers)


async def _lines(events: AsyncIterator[tuple[str | None, Any]]) -> AsyncGenerator[str]:
    pending: asyncio.Task[tuple[str | None, Any]] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_next(events))
            await asyncio.wait({pending}, timeout=HEARTBEAT)
            if not pending.done():
                yield ": \n\n"
                continue
            try:
                name, data = pending.result()
            except StopAsyncIteration:
                return
            except LaurError as error:
                name, data = "error", {"type": "error", "error": {"type": type(error).__name__, "message": str(error)}}
                yield _event(name, data)
                return
            pending = None
            yield _event(name, data)
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
        if isinstance(events, AsyncGenerator):
            await events.aclose()


async def _next(events: AsyncIterator[tuple[str | None, Any]]) -> tuple[str | None, Any]:
    return await anext(events)


def _event(name: str | None, data: Any) -> str:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
