"""Replicate's HTTP API, as far as its client package calls it: predictions of our models, as laur/NAME.

Pictures are links; over plain http, which the package does not take for files, they come as data URLs.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel

from laur import __version__
from laur.core.errors import NotFoundError
from laur.serve.http import cog, predictions, wishes
from laur.serve.http.cog import Number, base_of
from laur.serve.http.common import Tenant, TheService
from laur.serve.http.predictions import Input, Prediction, PredictionBody
from laur.serve.http.problem import problem, responses
from laur.serve.service import Service

router = APIRouter(prefix="/v1", tags=["replicate"])
Prefer = Annotated[str | None, Header(max_length=200, description="wait, or wait=SECONDS.")]
Owner = Annotated[str, Path(max_length=100)]
LONGEST = 60
"""Seconds that `Prefer: wait` waits, as at Replicate."""
_WAIT = re.compile(r"wait(?:\s*=\s*(\d{1,4}))?")


class VersionView(BaseModel):
    """A model's version: that of this server."""

    id: str
    created_at: str
    cog_version: str
    openapi_schema: dict[str, Any]


class ModelView(BaseModel):
    """A model."""

    url: str
    owner: str
    name: str
    description: str | None = None
    visibility: str = "private"
    github_url: str | None = None
    paper_url: str | None = None
    license_url: str | None = None
    run_count: int = 0
    cover_image_url: str | None = None
    default_example: None = None
    latest_version: VersionView | None = None


class Versions(BaseModel):
    """A page of them, the only one."""

    previous: None = None
    next: None = None
    results: list[VersionView]


_CREATED = responses(404, 429, 507)


@router.post("/predictions", response_model=Prediction, status_code=201, responses=_CREATED)
async def create(
    body: PredictionBody, service: TheService, tenant: Tenant, request: Request, prefer: Prefer = None
) -> Any:
    """A prediction by a version, OWNER/NAME:VERSION or OWNER/NAME."""
    if not body.version:
        return problem(422, "version is required", "RequestError")
    model = predictions.model_of(service, body.version)
    return await _create(body, service, request, tenant=tenant, prefer=prefer, model=model)


@router.post("/models/{owner}/{name}/predictions", response_model=Prediction, status_code=201, responses=_CREATED)
async def create_by_model(
    owner: Owner,
    name: Owner,
    *,
    body: PredictionBody,
    service: TheService,
    tenant: Tenant,
    request: Request,
    prefer: Prefer = None,
) -> Any:
    """A prediction by a model's name."""
    return await _create(body, service, request, tenant=tenant, prefer=prefer, model=_model(service, owner, name))


@router.get("/predictions/{id}", responses=responses(404))
async def look(id: Number, service: TheService, request: Request) -> Prediction:
    """What has become of a prediction."""
    return await predictions.read(service, id, **_how(request))


@router.post("/predictions/{id}/cancel", responses=responses(404))
async def cancel(id: Number, service: TheService, request: Request) -> Prediction:
    """Cancel it, in the middle of sampling too."""
    await service.cancel(predictions.parts(await service.queue.get(id)))
    return await predictions.read(service, id, **_how(request))


@router.get("/models/{owner}/{name}", responses=responses(404))
async def model(owner: Owner, name: Owner, service: TheService, request: Request) -> ModelView:
    """A model with its version."""
    _model(service, owner, name)
    url = f"{base_of(request)}/v1/models/{owner}/{name}"
    return ModelView(url=url, owner=owner, name=name, latest_version=_version(name))


@router.get("/models/{owner}/{name}/versions", responses=responses(404))
async def versions(owner: Owner, name: Owner, service: TheService) -> Versions:
    """All versions of a model: one."""
    _model(service, owner, name)
    return Versions(results=[_version(name)])


@router.get("/models/{owner}/{name}/versions/{version}", responses=responses(404))
async def version_of(
    owner: Owner, name: Owner, version: Annotated[str, Path(max_length=100)], service: TheService
) -> VersionView:
    """One version."""
    _model(service, owner, name)
    if version != predictions.version_of(name):
        raise NotFoundError(f"laur/{name} has no version {version!r} here")
    return _version(name)


async def _create(
    body: PredictionBody, service: Service, request: Request, *, tenant: str, prefer: str | None, model: str | None
) -> Response:
    number = await cog.start(
        body.model_copy(update={"id": None}), service, tenant, request, model=model, api="replicate"
    )
    match = _WAIT.search(prefer or "")
    if match is not None:
        ids = predictions.parts(await service.queue.get(number))
        seconds = min(LONGEST, int(match[1] or LONGEST))
        await asyncio.gather(*(service.queue.wait(part, seconds) for part in ids))
    prediction = await predictions.read(service, number, **_how(request))
    return cog.answer(prediction, status=201)


def _how(request: Request) -> dict[str, Any]:
    base = base_of(request)
    return {"base": base, "data": not base.startswith("https:")}


def _model(service: Service, owner: str, name: str) -> str | None:
    if owner != "laur":
        raise NotFoundError(f"no model {owner[:80]}/{name[:80]} here; they are laur/NAME")
    return wishes.checkpoint(service, name)


def _version(name: str) -> VersionView:
    schema = {"components": {"schemas": {"Input": Input.model_json_schema(), "Output": _OUTPUT}}}
    return VersionView(
        id=predictions.version_of(name),
        created_at="1970-01-01T00:00:00Z",
        cog_version=f"laur {__version__}",
        openapi_schema=schema,
    )


_OUTPUT = {"type": "array", "items": {"type": "string", "format": "uri"}, "title": "Output"}
