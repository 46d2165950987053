"""Cog's HTTP API for a model in a container: predictions, cancelling, webhooks, health.

409 where Cog has no slot free, 422 for an input that it refuses, 503 before its setup is through.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from laur import __version__
from laur.core.errors import BusyError, NotFoundError, UnavailableError
from laur.serve.http import health, predictions
from laur.serve.http.common import Tenant, TheService
from laur.serve.http.milestones import Listener, tell
from laur.serve.http.pictures import Pictures
from laur.serve.http.predictions import ID, Prediction, PredictionBody
from laur.serve.http.problem import problem, responses
from laur.serve.http.webhooks import Webhooks
from laur.serve.queue import Queue
from laur.serve.service import Service
from laur.serve.worker.crew import Crew

LOG = logging.getLogger(__name__)
router = APIRouter(tags=["cog"])
Prefer = Annotated[str | None, Header(max_length=200, description="respond-async answers at once.")]
Number = Annotated[str, Path(pattern=ID)]


class HealthCheck(BaseModel):
    """As Cog tells it."""

    status: str
    setup: dict[str, Any]
    version: dict[str, str]


class Nothing(BaseModel):
    """An empty answer."""


@router.get("/health-check", responses=responses())
async def health_check(request: Request) -> HealthCheck:
    """STARTING, READY, BUSY, SETUP_FAILED or DEFUNCT; the answer is always 200, as Cog's is."""
    reasons = await health.reasons(request.app)
    status = await _state(request.app.state.queue, request.app.state.crew, reasons)
    setup = {"SETUP_FAILED": "failed", "STARTING": "starting"}.get(status, "succeeded")
    return HealthCheck(
        status=status, setup={"status": setup, "logs": "\n".join(reasons)}, version={"laur": __version__}
    )


async def _state(queue: Queue, crew: Crew | None, reasons: list[str]) -> str:
    """DEFUNCT is an engine that has ended or hangs, BUSY a queue that refuses or a process that takes nothing new."""
    if crew is not None and (crew.fault is not None or not crew.live):
        opened = all(worker.thread.engine is not None for worker in crew.workers)
        return "DEFUNCT" if opened else "SETUP_FAILED"
    if crew is not None and crew.draining:
        return "BUSY"
    return "STARTING" if reasons else "BUSY" if await _is_full(queue) else "READY"


async def _is_full(queue: Queue) -> bool:
    """Whether a job would be refused: at the limit of all, or of what one tenant may have waiting in one pool."""
    stats, options = None, queue.options
    with contextlib.suppress(UnavailableError):
        stats = await queue.stats()
    if stats is None:
        return True
    alone = max(stats.by_pool.values(), default=0)
    return stats.waiting + stats.running >= options.limit or alone >= options.per_tenant


@router.post(
    "/predictions",
    response_model=Prediction,
    responses={202: {"model": Prediction, "description": "It goes on."}, **responses(404, 409, 500, 504, 507)},
)
async def predict(
    body: PredictionBody, service: TheService, tenant: Tenant, request: Request, prefer: Prefer = None
) -> Any:
    """Draw, and answer when it is through; with `Prefer: respond-async` at once."""
    return await _predict(body, service, tenant, request, prefer)


@router.put(
    "/predictions/{id}",
    response_model=Prediction,
    responses={202: {"model": Prediction, "description": "It goes on."}, **responses(404, 409, 500, 504, 507)},
)
async def put(
    id: Number, *, body: PredictionBody, service: TheService, tenant: Tenant, request: Request, prefer: Prefer = None
) -> Any:
    """The same under an id that the client chose: sent again, it is the same prediction."""
    if body.id not in {None, id}:
        return problem(422, "prediction ID must match the ID supplied in the URL", "RequestError")
    try:
        before = await predictions.read(service, id, base=base_of(request), data=True)
    except NotFoundError:
        return await _predict(body.model_copy(update={"id": id}), service, tenant, request, prefer)
    return answer(before)


@router.post("/predictions/{id}/cancel", responses=responses(404))
async def cancel(id: Number, service: TheService) -> Nothing:
    """Cancel, in the middle of sampling too."""
    await service.cancel(predictions.parts(await service.queue.get(id)))
    return Nothing()


async def _predict(
    body: PredictionBody, service: Service, tenant: str, request: Request, prefer: str | None
) -> Response:
    if request.app.state.crew is not None and (reasons := await health.reasons(request.app)):
        raise UnavailableError(reasons[0])
    base = base_of(request)
    try:
        number = await start(body, service, tenant, request, model=None, api="cog")
    except BusyError as error:
        return problem(409, str(error), "BusyError", {"Retry-After": str(error.retry_after)})
    if prefer is not None and "respond-async" in prefer:
        return answer(await predictions.read(service, number, base=base, data=True), status=202)
    ids = predictions.parts(await service.queue.get(number))
    await service.finish(ids, request.is_disconnected)
    return answer(await predictions.read(service, number, base=base, data=True))


async def start(
    body: PredictionBody, service: Service, tenant: str, request: Request, *, model: str | None, api: str
) -> str:
    """Queue a prediction and see to its webhook; its id. Errors: those of `predictions.begin`, a webhook's."""
    webhooks: Webhooks = request.app.state.webhooks
    webhooks.check(body.webhook)
    pictures = Pictures(service, tenant, base_of(request))
    number = await predictions.begin(service, body, pictures, model=model, api=api)
    if listener := Listener.of(body.webhook, body.webhook_events_filter):

        async def parts() -> list[str]:
            return predictions.parts(await service.queue.get(number))

        read = partial(predictions.read, service, number, base=base_of(request), data=api == "cog")
        webhooks.start(tell(webhooks, listener, f"prediction {number}", queue=service.queue, parts=parts, read=read))
    return number


def answer(prediction: Prediction, status: int | None = None) -> JSONResponse:
    """200 for one that is through, 202 for one that goes on."""
    over = prediction.status in {"succeeded", "failed", "canceled"}
    return JSONResponse(prediction.model_dump(), status or (200 if over else 202))


def base_of(request: Request) -> str:
    """The address by which the client reached us."""
    return str(request.base_url).rstrip("/")
