"""Trainings in Cog's manner, and as Replicate's client calls them: pictures become an adapter that requests can name.

Offered where the server was started with --train. A training is a job of its own kind: queued, leased, cancelled and
watched as pictures are (`/v1/jobs/ID/events`).
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from laur.core.errors import BusyError, NotFoundError, RecipeError
from laur.core.recipe import Recipe
from laur.serve.http import wishes
from laur.serve.http.cog import Nothing, Number, base_of
from laur.serve.http.common import Tenant, TheService
from laur.serve.http.milestones import Listener, Milestone, tell
from laur.serve.http.pictures import Pictures
from laur.serve.http.predictions import ID, Status, stamp, version_of
from laur.serve.http.problem import problem, responses
from laur.serve.http.replicate import Owner
from laur.serve.http.webhooks import Webhooks
from laur.serve.job import Job, Record, State
from laur.serve.service import Service
from laur.serve.training.wish import NAME, Wish, archive_key, check_archive

router = APIRouter(tags=["trainings"])
Prefer = Annotated[str | None, Header(max_length=200, description="respond-async answers at once.")]
DEADLINE = 24 * 3600.0
"""Seconds after which a training is given up."""
_STATUS: dict[State, Status] = {
    State.QUEUED: "starting",
    State.RUNNING: "processing",
    State.DONE: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "canceled",
}


class TrainingInput(BaseModel):
    """What is trained."""

    model_config = ConfigDict(extra="forbid")

    input_images: str = Field(
        min_length=1, description="A zip file of pictures as a data URL, or its address where those are allowed."
    )
    name: str | None = Field(None, pattern=NAME, description="What requests name the adapter by.")
    task: Literal["style", "lcm-lora"] = "style"
    trigger: str = Field("", max_length=100, description="Words before each caption, and before prompts with it.")
    steps: int = Field(300, ge=1, le=20_000, description="Updates.")
    batch_size: int | None = Field(None, ge=1, le=64)
    learning_rate: float | None = Field(None, gt=0.0, le=1.0)
    rank: int | None = Field(None, ge=1, le=256)
    resolution: int | None = Field(None, ge=64, le=2048)
    seed: int = Field(0, ge=0, le=2**31)


class TrainingBody(BaseModel):
    """A request for a training."""

    model_config = ConfigDict(extra="ignore")

    input: TrainingInput
    id: str | None = Field(None, pattern=ID)
    destination: str | None = Field(
        None, max_length=200, description="OWNER/NAME; NAME is the adapter's, if not given."
    )
    webhook: str | None = Field(None, max_length=2000, pattern=r"^https?://")
    webhook_events_filter: list[Milestone] | None = Field(None, max_length=4)


class Training(BaseModel):
    """What has become of it."""

    id: str
    model: str
    version: str
    destination: str | None
    status: Status
    input: dict[str, Any]
    output: dict[str, str] | None = Field(description="The adapter's name, and where its file is.")
    error: str | None
    logs: str
    metrics: dict[str, float]
    created_at: str
    started_at: str | None
    completed_at: str | None
    urls: dict[str, str]
    webhook: str | None = None


_ANSWERS = {202: {"model": Training, "description": "It goes on."}, **responses(404, 409, 429, 500, 501, 504, 507)}


@router.post("/trainings", response_model=Training, responses=_ANSWERS)
async def train(
    body: TrainingBody, service: TheService, tenant: Tenant, request: Request, prefer: Prefer = None
) -> Any:
    """Train, and answer when it is through; with `Prefer: respond-async` at once."""
    return await _train(body, service, tenant, request, wait="respond-async" not in (prefer or ""))


@router.put("/trainings/{id}", response_model=Training, responses=_ANSWERS)
async def put(
    id: Number, *, body: TrainingBody, service: TheService, tenant: Tenant, request: Request, prefer: Prefer = None
) -> Any:
    """The same under an id that the client chose: sent again, it is the same training."""
    if body.id not in {None, id}:
        return problem(422, "training ID must match the ID supplied in the URL", "RequestError")
    try:
        return _answer(await _read(service, id, base_of(request)))
    except NotFoundError:
        wait = "respond-async" not in (prefer or "")
        return await _train(body.model_copy(update={"id": id}), service, tenant, request, wait=wait)


@router.post("/trainings/{id}/cancel", responses=responses(404))
async def cancel(id: Number, service: TheService) -> Nothing:
    """Cancel; takes effect after the update that is under way."""
    await _record(service, id)
    await service.cancel([id])
    return Nothing()


@router.post(
    "/v1/models/{owner}/{name}/versions/{version}/trainings",
    response_model=Training,
    status_code=201,
    responses=responses(404, 429, 501, 507),
)
async def create(
    owner: Owner, name: Owner, version: Owner, *, body: TrainingBody, service: TheService, tenant: Tenant,
    request: Request,
) -> Any:  # fmt: skip
    """As Replicate's client begins one."""
    checkpoint = wishes.checkpoint(service, name)
    if owner != "laur" or version not in {version_of(name), name}:
        raise NotFoundError(
            f"no version {version[:80]!r} of {owner[:80]}/{name[:80]} here; GET /v1/models lists the models"
        )
    number = await _begin(body.model_copy(update={"id": None}), service, tenant, request, checkpoint)
    return _answer(await _read(service, number, base_of(request)), 201)


@router.get("/v1/trainings/{id}", responses=responses(404))
async def look(id: Number, service: TheService, request: Request) -> Training:
    """What has become of a training."""
    return await _read(service, id, base_of(request))


@router.post("/v1/trainings/{id}/cancel", responses=responses(404))
async def cancel_and_look(id: Number, service: TheService, request: Request) -> Training:
    """Cancel it."""
    await cancel(id, service)
    return await _read(service, id, base_of(request))


@router.get(
    "/v1/trainings/{id}/weights",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "safetensors."},
        **responses(404, 507),
    },
)
async def weights(id: Number, service: TheService) -> Response:
    """The adapter's file."""
    record = await _record(service, id)
    if record.result is None:
        raise NotFoundError(f"training {id} is {record.state.value}; its weights are there once it is done")
    return Response(await service.content(record.result), media_type=record.result.media_type)


async def _train(body: TrainingBody, service: Service, tenant: str, request: Request, *, wait: bool) -> Response:
    try:
        number = await _begin(body, service, tenant, request, None)
    except BusyError as error:
        return problem(409, str(error), "BusyError", {"Retry-After": str(error.retry_after)})
    if wait:
        await service.finish([number], request.is_disconnected)
    return _answer(await _read(service, number, base_of(request)), None if wait else 202)


async def _begin(body: TrainingBody, service: Service, tenant: str, request: Request, checkpoint: str | None) -> str:
    """Keep the pictures and queue the training; its id. Errors: DataError, RecipeError, BusyError, OutputError."""
    if not request.app.state.trains:
        raise HTTPException(501, "trainings are off on this server; its operator may allow them with --train")
    webhooks: Webhooks = request.app.state.webhooks
    webhooks.check(body.webhook)
    number = body.id or secrets.token_hex(13)
    name = _name(body, tenant, number)
    if name in service.names.adapters():
        raise RecipeError(f"an adapter {name} is there already; choose another name")
    content = await Pictures(service, tenant, base_of(request)).bytes_of(body.input.input_images)
    await asyncio.to_thread(check_archive, content)
    key = archive_key(tenant, content)
    await asyncio.to_thread(service.store.put, key, content)
    asked = body.input
    wish = Wish(
        task=asked.task, name=name, archive=key, checkpoint=checkpoint, updates=asked.steps, batch=asked.batch_size,
        lr=asked.learning_rate, rank=asked.rank, size=asked.resolution, seed=asked.seed, trigger=asked.trigger,
    )  # fmt: skip
    shown = asked.model_dump(exclude={"input_images"}, exclude_unset=True)
    note = {"training": wish.to_dict(), "input": shown, "destination": body.destination, "webhook": body.webhook}
    job = Job(
        recipe=Recipe(prompt=f"train {name}", checkpoint=checkpoint), id=number, tenant=tenant,
        training=True, note=note, deadline=time.time() + DEADLINE,
    )  # fmt: skip
    number = (await service.queue.submit(job)).job.id
    if listener := Listener.of(body.webhook, body.webhook_events_filter):

        async def parts() -> list[str]:
            return [number]

        read = partial(_read, service, number, base_of(request))
        webhooks.start(tell(webhooks, listener, f"training {number}", queue=service.queue, parts=parts, read=read))
    return number


def _name(body: TrainingBody, tenant: str, number: str) -> str:
    """Raises RecipeError."""
    name = body.input.name or (body.destination or "").rpartition("/")[2].lower() or f"trained-{number[:12].lower()}"
    if not re.fullmatch(NAME, name):
        raise RecipeError(f"{name[:60]!r} is no adapter's name; take 1 to 48 small letters, digits, - and _")
    return name


async def _record(service: Service, number: str) -> Record:
    record = await service.queue.get(number)
    if not record.job.training:
        raise NotFoundError(f"no training {number!r}")
    return record


async def _read(service: Service, number: str, base: str) -> Training:
    record = await _record(service, number)
    job, note = record.job, record.job.note
    model, name = job.recipe.checkpoint or service.names.models()[0], note["training"]["name"]
    over = record.finished if record.state.final else None
    metrics = {} if over is None or record.started is None else {"predict_time": max(0.0, over - record.started)}
    share = f"{record.step}/{record.steps} updates\n" if record.steps else ""
    return Training(
        id=job.id,
        model=f"laur/{model}",
        version=version_of(model),
        destination=note.get("destination"),
        status=_STATUS[record.state],
        input=dict(note["input"]),
        output={"adapter": name, "weights": f"{base}/v1/trainings/{job.id}/weights"} if record.result else None,
        error=record.failure.message if record.failure is not None and record.state is State.FAILED else None,
        logs=share,
        metrics=metrics,
        created_at=stamp(job.created),
        started_at=None if record.started is None else stamp(record.started),
        completed_at=None if over is None else stamp(over),
        urls={"get": f"{base}/v1/trainings/{job.id}", "cancel": f"{base}/v1/trainings/{job.id}/cancel"},
        webhook=note.get("webhook"),
    )


def _answer(training: Training, status: int | None = None) -> JSONResponse:
    over = training.status in {"succeeded", "failed", "canceled"}
    return JSONResponse(training.model_dump(), status or (200 if over else 202))
