"""Laur's own API: jobs, their events, their pictures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from laur.core.errors import NotFoundError
from laur.serve import events
from laur.serve.http.common import FOREVER, Tenant, TheService, event_stream, file_answer, file_headers, matches
from laur.serve.http.models import JobBody, JobView, QueueView
from laur.serve.http.pictures import ThePictures
from laur.serve.http.problem import of_failure, problem, responses
from laur.serve.job import Job, State
from laur.serve.service import Service

router = APIRouter(prefix="/v1", tags=["jobs"])
JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Key = Annotated[str, Path(pattern=r"^[0-9a-f]{64}\.[a-z0-9]{1,8}$")]
_FILE: dict[str, Any] = {
    "content": {f"image/{name}": {} for name in ("png", "jpeg", "webp", "avif", "tiff")},
    "description": "The file.",
}


@router.post("/jobs", status_code=202, responses=responses(404, 429, 507))
async def submit(
    body: JobBody, service: TheService, tenant: Tenant, pictures: ThePictures, response: Response
) -> JobView:
    """Queue a job. A recipe with a seed that was drawn before is done at once."""
    given = await pictures.settled(body.recipe.image, body.recipe.mask)
    own: dict[str, Any] = {} if body.id is None else {"id": body.id}
    job = Job(
        recipe=body.recipe.model_copy(update=given).recipe(),
        tenant=tenant,
        priority=body.priority,
        deadline=None if body.deadline is None else time.time() + body.deadline,
        format=body.format,
        metadata=body.metadata,
        previews=body.previews,
        **own,
    )
    record = await service.submit(job)
    response.headers["Location"] = f"/v1/jobs/{record.job.id}"
    return JobView.of(record)


@router.get("/jobs/{id}", responses=responses(404))
async def look(id: JobId, service: TheService) -> JobView:
    """Where a job is."""
    return JobView.of(await service.queue.get(id))


@router.delete("/jobs/{id}", responses=responses(404))
async def cancel(id: JobId, service: TheService) -> JobView:
    """Cancel a job, in the middle of sampling too. One that is final stays as it is."""
    return JobView.of(await service.queue.cancel(id))


@router.get(
    "/jobs/{id}/events",
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events."}, **responses(404)},
    response_class=Response,
)
async def watch(id: JobId, service: TheService) -> Response:
    """Server-sent events: queued, started, progress, preview (base64), and at last ended."""
    await service.queue.get(id)
    return event_stream(_events(service, id))


@router.get(
    "/jobs/{id}/picture",
    responses={200: _FILE, 304: {"description": "You have it."}, **responses(404, 409, 500, 504, 507)},
    response_class=Response,
)
async def picture(id: JobId, service: TheService, request: Request) -> Response:
    """The picture of a job that is done; 409 before, and the job's own failure after."""
    record = await service.queue.get(id)
    if record.result is not None:
        return await file_answer(request, service, record.result)
    if record.failure is not None and record.state is State.FAILED:
        return of_failure(record.failure)
    return problem(409, f"job {id} is {record.state.value}; its picture is there once it is done", "StateError")


@router.get(
    "/pictures/{key}",
    responses={200: _FILE, 304: {"description": "You have it."}, **responses(404, 507)},
    response_class=Response,
)
async def file(key: Key, service: TheService, request: Request) -> Response:
    """A file by its key, which results of other APIs link to."""

    from laur.render import registry

    name = key.rpartition(".")[2]
    if not registry.knows(name):  # clients' own pictures lie in this store too, and are nobody's to fetch
        raise NotFoundError(f"no result {key!r}; its format is unknown")
    etag = f'"{key}"'
    headers = file_headers(request, etag, FOREVER)
    if matches(request.headers.get("if-none-match"), etag) and await asyncio.to_thread(service.store.has, key):
        return Response(status_code=304, headers=headers)
    content = await asyncio.to_thread(service.store.get, key)
    return Response(content, media_type=registry.get(name).media_type, headers=headers)


@router.get("/queue", responses=responses())
async def queue(service: TheService) -> QueueView:
    """How full the queue is."""
    stats = await service.queue.stats()
    return QueueView(waiting=stats.waiting, running=stats.running, oldest=stats.oldest, parked=stats.parked)


async def _events(service: Service, id: str) -> AsyncGenerator[tuple[str | None, Any]]:
    watch = service.queue.watch(id)
    try:
        async for event in watch:
            values = events.to_dict(event)
            if isinstance(event, events.Ended):
                values = {"event": "ended", "at": event.at, **JobView.of(await service.queue.get(id)).model_dump()}
            yield events.name_of(event), values
    finally:
        await watch.aclose()
