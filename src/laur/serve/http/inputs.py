"""Uploads: Laur's own, which say what a Recipe names the picture by, and Replicate's files, which are links."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Path, Query, Request, Response, UploadFile
from pydantic import BaseModel, Field

from laur.core.errors import NotFoundError
from laur.serve.http.common import Tenant, TheService
from laur.serve.http.models import Content
from laur.serve.http.pictures import ThePictures
from laur.serve.http.problem import responses
from laur.serve.inputs import FORMATS, Kind
from laur.serve.service import Service

router = APIRouter(prefix="/v1")
Number = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {f"image/{name.lower()}": _BINARY for name in FORMATS}}
}


class InputView(BaseModel):
    """A picture that was uploaded."""

    ref: Content = Field(description="What a recipe's image or mask says.")
    kind: Kind
    width: int
    height: int


class FileView(BaseModel):
    """A file as Replicate tells of it."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: dict[str, Any]
    created_at: str
    expires_at: str | None
    urls: dict[str, str]


@router.post("/inputs", status_code=201, openapi_extra=_BODY, responses=responses(507), tags=["jobs"])
async def upload(
    request: Request,
    pictures: ThePictures,
    kind: Annotated[Kind, Query(description="A mask is white, or transparent, where it is drawn anew.")] = "image",
) -> InputView:
    """Upload a picture or a mask, the file being the body. The same picture has the same name whenever it is sent."""
    picture = await pictures.read(await request.body(), kind)
    ref = await pictures.keep(picture)
    return InputView(ref=ref, kind=kind, width=picture.size[0], height=picture.size[1])


@router.delete("/inputs/{ref}", status_code=204, responses=responses(404, 507), tags=["jobs"])
async def remove(ref: Annotated[Content, Path()], service: TheService, tenant: Tenant) -> None:
    """Remove a picture before its time. Jobs that have yet to begin from it fail."""
    if not await asyncio.to_thread(service.inputs.remove, tenant, ref):
        raise NotFoundError(f"no picture {ref[:17]}… is here")


@router.post("/files", status_code=201, responses=responses(507), tags=["replicate"])
async def create_file(
    content: Annotated[UploadFile, File()],
    service: TheService,
    tenant: Tenant,
    pictures: ThePictures,
    metadata: Annotated[str | None, Form(max_length=10_000)] = None,
) -> FileView:
    """Upload a picture; its link goes into a prediction's `image` or `mask`. `metadata` is not kept."""
    body = await content.read()
    async with service.decoding:
        number = await asyncio.to_thread(service.inputs.upload, tenant, body)
    return await _view(service, tenant, number, pictures.base)


@router.get("/files/{id}", responses=responses(404, 507), tags=["replicate"])
async def file_of(id: Number, service: TheService, tenant: Tenant, pictures: ThePictures) -> FileView:
    """What is known of a file."""
    return await _view(service, tenant, id, pictures.base)


@router.delete(
    "/files/{id}", status_code=204, response_class=Response, responses=responses(404, 507), tags=["replicate"]
)
async def remove_file(id: Number, service: TheService, tenant: Tenant) -> None:
    """Remove a file before its time."""
    if not await asyncio.to_thread(service.inputs.forget, tenant, id):
        raise NotFoundError(f"no file {id[:16]}… is here")


async def _view(service: Service, tenant: str, number: str, base: str) -> FileView:
    content, created = await asyncio.to_thread(service.inputs.uploaded, tenant, number)
    return FileView(
        id=number,
        name=number[:12],
        content_type="application/octet-stream",
        size=len(content),
        etag=number,
        checksums={"sha256": number},
        metadata={},
        created_at=_stamp(created),
        expires_at=_stamp(created + service.store.keep),
        urls={"get": f"{base}/v1/files/{number}"},
    )


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
