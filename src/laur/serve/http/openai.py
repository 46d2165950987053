"""OpenAI's Images API, as its client packages speak it: generations, streamed partial images, models.

A model is one of ours; names that begin with gpt-image, chatgpt-image or dall-e stand for the server's own, so that
clients which name those work unchanged. Beside OpenAI's parameters ours are taken too (the packages' `extra_body`).
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from laur.core.recipe import PROMPT_LIMIT, SEED_LIMIT, STEPS_LIMIT, Recipe
from laur.serve import events
from laur.serve.http import wishes
from laur.serve.http.common import Tenant, TheService, event_stream
from laur.serve.http.models import AdapterBody
from laur.serve.http.problem import of_failure, responses
from laur.serve.job import Failure, Job, Record, State
from laur.serve.service import Service

router = APIRouter(prefix="/v1", tags=["openai"])
STAND_INS = ("gpt-image", "chatgpt-image", "dall-e")


@dataclass(frozen=True, slots=True)
class Stream:
    """How an answer comes as events."""

    kind: str
    """What their names begin with."""
    partial: int
    """Previews of each picture, at most."""


class ImageBody(BaseModel):
    """What images.generate sends; further fields are OpenAI's that change nothing here."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(min_length=1, max_length=PROMPT_LIMIT, pattern=r"\S")
    model: str | None = Field(None, max_length=200)
    n: int | None = Field(1, ge=1, le=10)
    size: str | None = Field(None, max_length=20)
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    stream: bool | None = False
    partial_images: int | None = Field(0, ge=0, le=3)
    user: str | None = Field(None, max_length=1000)
    # ours
    negative_prompt: str = Field("", max_length=PROMPT_LIMIT)
    seed: int | None = Field(None, ge=0, le=SEED_LIMIT - 100)
    steps: int | None = Field(None, ge=1, le=STEPS_LIMIT)
    guidance: float | None = Field(None, ge=0.0, le=100.0)
    sampler: Literal["lcm", "tcd", "ddim", "euler", "dpm++2m"] | None = None
    style: str | None = Field(None, min_length=1, max_length=200, pattern=r"\S")
    adapters: list[AdapterBody] | None = Field(None, max_length=32)

    def recipe(self, service: Service) -> Recipe:
        """Raises RecipeError, NotFoundError."""
        names = ("prompt", "negative_prompt", "seed", "steps", "guidance", "sampler", "style")
        own = {name: getattr(self, name) for name in names}
        if self.adapters is not None:
            own["adapters"] = tuple(entry.ref() for entry in self.adapters)
        model = wishes.checkpoint(service, self.model, stand_ins=STAND_INS)
        return Recipe(**own, **wishes.size(self.size), checkpoint=model)


class ImageData(BaseModel):
    """One picture."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    blurred: str | None = Field(None, description="Why it shows colours only; ours.")


class Images(BaseModel):
    """What images.generate returns."""

    created: int
    data: list[ImageData]
    output_format: str
    size: str
    background: Literal["opaque"] = "opaque"
    quality: Literal["auto"] = "auto"


class ModelView(BaseModel):
    """A model by name."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "laur"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelView]


@router.post(
    "/images/generations",
    response_model=Images,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Pictures, or with `stream` events."},
        **responses(404, 409, 429, 500, 504, 507),
    },
)
async def generate(body: ImageBody, service: TheService, tenant: Tenant, request: Request) -> Any:
    """Draw. With `stream` partial images come as server-sent events."""
    recipe = body.recipe(service)
    stream = Stream("image_generation", body.partial_images or 0) if body.stream else None
    jobs = wishes.several(
        recipe, body.n or 1, tenant=tenant, format=body.output_format or "png", previews=bool(stream and stream.partial)
    )
    return await draw(service, jobs, request, as_url=wants_url(body.response_format, body.model), stream=stream)


async def draw(service: Service, jobs: list[Job], request: Request, *, as_url: bool, stream: Stream | None) -> Any:
    """Queue jobs and answer with their pictures, or with events as they come."""
    await service.submit_all(jobs)
    if stream is not None:
        return event_stream(_stream(service, jobs, stream))
    records = await service.finish([job.id for job in jobs], request.is_disconnected)
    if (failed := failure_of(records)) is not None:
        return failed
    data = [await _data(service, record, request, as_url) for record in records]
    return Images(created=int(time.time()), data=data, output_format=jobs[0].format, size=_size(records[0]))


def wants_url(response_format: str | None, model: str | None) -> bool:
    """Whether pictures are given as links: as asked for, or as the model's name lets clients expect."""
    return (response_format or ("url" if (model or "").startswith("dall-e") else "b64_json")) == "url"


@router.get("/models", responses=responses())
async def models(service: TheService) -> ModelList:
    """What `model` takes."""
    names = await asyncio.to_thread(service.names.models)
    return ModelList(data=[ModelView(id=name) for name in names])


@router.get("/models/{model}", responses=responses(404))
async def model_of(model: Annotated[str, Path(max_length=200)], service: TheService) -> ModelView:
    """One model."""
    wishes.checkpoint(service, model)
    return ModelView(id=model)


def failure_of(records: list[Record]) -> JSONResponse | None:
    """The answer where one of several pictures did not come."""
    for record in records:
        if record.state is State.FAILED:
            assert record.failure is not None
            return of_failure(record.failure)
        if record.state is not State.DONE:
            return of_failure(_unfinished(record))
    return None


def _unfinished(record: Record) -> Failure:
    if record.state is State.CANCELLED:
        return Failure(kind="cancelled", message="the job was cancelled", status=409)
    return Failure(kind="timeout", message=f"not finished in time; it goes on as /v1/jobs/{record.job.id}", status=504)


async def _data(service: Service, record: Record, request: Request, as_url: bool) -> ImageData:
    assert record.result is not None
    if as_url:
        url = service.link(str(request.url_for("file", key=record.result.key)))
        return ImageData(url=url, blurred=record.result.blurred)
    content = base64.b64encode(await service.content(record.result)).decode()
    return ImageData(b64_json=content, blurred=record.result.blurred)


def _size(record: Record) -> str:
    assert record.result is not None
    return f"{record.result.width}x{record.result.height}"


async def _stream(service: Service, jobs: list[Job], how: Stream) -> AsyncGenerator[tuple[str | None, Any]]:
    """One picture after the other, each with its previews; who stops listening cancels."""
    done = False
    try:
        for job in jobs:
            sent = 0
            async for event in service.queue.watch(job.id):
                if isinstance(event, events.Preview) and sent < how.partial:
                    values = {"partial_image_index": sent, "b64_json": base64.b64encode(event.data).decode()}
                    sent += 1
                    yield _said(f"{how.kind}.partial_image", job, "jpeg", job.recipe, values)
                elif isinstance(event, events.Ended):
                    yield await _end(service, job, event, how.kind)
        done = True
    finally:
        if not done:
            await service.cancel([job.id for job in jobs])


async def _end(service: Service, job: Job, event: events.Ended, kind: str) -> tuple[str | None, Any]:
    if event.result is None:
        failure = event.failure or Failure(kind="cancelled", message="the job was cancelled", status=409)
        error = {"message": failure.message, "type": failure.kind, "code": failure.kind, "param": None}
        return "error", {"type": "error", "error": error}
    tokens = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    usage = {**tokens, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
    content = base64.b64encode(await service.content(event.result)).decode()
    values = {"b64_json": content, "usage": usage, "blurred": event.result.blurred}
    return _said(f"{kind}.completed", job, job.format, event.result.recipe, values)


def _said(kind: str, job: Job, format: str, recipe: Recipe, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    sides = f"{recipe.width}x{recipe.height}" if recipe.width and recipe.height else "auto"
    common = {"created_at": int(time.time()), "size": sides, "quality": "auto", "background": "opaque"}
    return kind, {"type": kind, **common, "output_format": format, **values}
