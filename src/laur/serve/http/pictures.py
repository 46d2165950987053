"""Pictures in requests, however a client sends them, to what a Recipe names them by.

As bytes, in base64, as a data URL, as sha256:HASH of one that was sent before, as this server's own link of an upload
or a result, or as another address where the operator allows that.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import Field

from laur.core.errors import NotFoundError, PictureError
from laur.serve.http.common import Tenant, TheService
from laur.serve.inputs import Kind

if TYPE_CHECKING:
    from laur.input.image import InputPicture
    from laur.serve.service import Service

Picture = Annotated[
    str,
    Field(
        pattern=r"^(sha256:[0-9a-f]{64}$|data:|https?://)",
        description="A data URL, the sha256:HASH or link of what was uploaded before, or an address if allowed here.",
        json_schema_extra={"format": "uri"},
    ),
]
T = TypeVar("T")
_REF = re.compile(r"sha256:[0-9a-f]{64}")
_DATA = re.compile(r"data:[^,]{0,200};base64,")
_FILE = re.compile(r"/v1/files/([0-9a-f]{64})")
_RESULT = re.compile(r"/v1/pictures/([0-9a-f]{64}\.(?:png|jpeg|webp|avif))")
_JOB = re.compile(r"/v1/jobs/([A-Za-z0-9][A-Za-z0-9_-]{0,63})/picture")


@dataclass(frozen=True, slots=True)
class Pictures:
    """Takes the pictures of one request into the store."""

    service: Service
    tenant: str
    base: str
    """The address by which the client reached us."""

    async def bytes_of(self, source: str, *, bare: bool = False) -> bytes:
        """The file that a text stands for; with `bare` it may be base64 alone.

        Errors: PictureError, RecipeError (an address that may not be called), NotFoundError, OutputError.
        """
        if source.startswith("data:"):
            head = _DATA.match(source)
            if head is None:
                raise PictureError("a data URL of a picture is data:image/png;base64, and the file in base64")
            return decoded(source[head.end() :])
        if source.startswith(("http://", "https://")):
            own = await self._own(source)
            return await self.service.fetcher.get(source) if own is None else own
        if not bare:
            raise PictureError("a picture is a data URL, the sha256:HASH of one that was sent before, or a link")
        return decoded(source)

    async def _own(self, address: str) -> bytes | None:
        """What this server's own links mean, without a request to itself; None for other addresses.

        Raises NotFoundError for what is not there, or not this tenant's to see.
        """
        path, _, query = address.removeprefix(self.base).partition("?")
        service = self.service
        if not address.startswith(f"{self.base}/"):
            return None
        if (file := _FILE.fullmatch(path)) is not None:
            return (await asyncio.to_thread(service.inputs.uploaded, self.tenant, file[1]))[0]
        if (result := _RESULT.fullmatch(path)) is not None:
            if service.links is not None and not service.links.opens(path, query):
                raise NotFoundError("the picture's link is no longer valid; ask for its result again")
            return await asyncio.to_thread(service.store.get, result[1])
        if (job := _JOB.fullmatch(path)) is not None:
            record = await service.queue.get(job[1])
            if record.result is None:
                raise NotFoundError(f"job {job[1]} is {record.state.value}; its picture is there once it is done")
            return await service.content(record.result)
        return None

    async def read(self, content: bytes, kind: Kind = "image", *, strokes: bool = False) -> InputPicture:
        """A file's picture or mask; few at a time, as they are large once unpacked. Raises PictureError."""
        return await self.apart(lambda: self.service.inputs.read(content, kind, strokes=strokes))

    async def apart(self, work: Callable[[], T]) -> T:
        """What takes long with pixels, in a thread; few at a time."""
        async with self.service.decoding:
            return await asyncio.to_thread(work)

    async def holes(self, content: bytes) -> InputPicture | None:
        """Where a file's picture is transparent, as a mask. Raises PictureError."""
        return await self.apart(lambda: self.service.inputs.holes(content))

    async def keep(self, picture: InputPicture) -> str:
        """What a Recipe names it by. Raises OutputError."""
        return await self.apart(lambda: self.service.inputs.add(self.tenant, picture))

    async def settle(self, source: str | bytes, kind: Kind = "image") -> str:
        """From whatever was sent to what a Recipe names it by. Errors: those of `bytes_of` and `read`."""
        if isinstance(source, str):
            if _REF.fullmatch(source):
                return source
            source = await self.bytes_of(source)
        return await self.keep(await self.read(source, kind))

    async def settled(self, image: str | None, mask: str | None) -> dict[str, Any]:
        """Fields of a Recipe from what a body's fields say."""
        fields: dict[str, Any] = {}
        if image is not None:
            fields["image"] = await self.settle(image)
        if mask is not None:
            fields["mask"] = await self.settle(mask, "mask")
        return fields


async def _pictures(service: TheService, tenant: Tenant, request: Request) -> Pictures:
    return Pictures(service, tenant, str(request.base_url).rstrip("/"))


ThePictures = Annotated[Pictures, Depends(_pictures)]


def decoded(text: str) -> bytes:
    """From base64. Raises PictureError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise PictureError("the picture is not base64") from None
