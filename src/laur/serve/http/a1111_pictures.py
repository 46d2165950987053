"""img2img of AUTOMATIC1111's API: pictures to begin from, brought to their size as that program does it.

With a mask and `inpaint_full_res` (clients' default) only the masked part is drawn, at the size that is asked for, and
put back into the picture, which keeps its own size. That file cannot be made again from a recipe, so it holds A1111's
parameters alone.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from laur.core.errors import RecipeError
from laur.input import inpaint
from laur.input.fit import check_mask, other_side
from laur.serve.http import wishes
from laur.serve.http.a1111 import Drawing, desk_of, draw, recipe_of
from laur.serve.http.a1111_models import Drawn, Image2Image
from laur.serve.http.common import Tenant, TheService
from laur.serve.http.openai_edits import PLAIN
from laur.serve.http.pictures import Pictures, ThePictures
from laur.serve.http.problem import responses
from laur.serve.service import STEP

if TYPE_CHECKING:
    from laur.input.image import InputPicture

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])
STRETCH, CROP, INSET, LATENT = range(4)
FROM_AROUND, ORIGINAL = range(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A picture of which one part is drawn, and put back."""

    picture: InputPicture
    mask: InputPicture
    box: inpaint.Box
    blur: float

    def whole(self, content: bytes) -> bytes:
        """A PNG of the picture with the part as it was drawn."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        from laur.render.metadata import read

        found = read(content)
        pixels = inpaint.pasted(self.picture, self.mask, self.box, found.pixels, self.blur)
        texts, file = PngInfo(), io.BytesIO()
        if found.parameters:
            texts.add_text("parameters", found.parameters)
        Image.fromarray(pixels).save(file, "PNG", pnginfo=texts)
        return file.getvalue()


@dataclass(slots=True)
class Beginning(Drawing):
    """A request for pictures that begin from others."""

    parts: list[Part | None] = field(default_factory=list["Part | None"])
    """Of each of these, what it is put back into."""
    pictures: Pictures | None = None

    async def finish(self, number: int, content: bytes) -> bytes:
        """See `Drawing`."""
        part = self.parts[number % len(self.parts)]
        if part is None or self.pictures is None:
            return content
        return await self.pictures.apart(lambda: part.whole(content))

    def parameters(self) -> dict[str, Any]:
        """What was asked for; with the pictures where that was asked for too."""
        assert isinstance(self.body, Image2Image)
        hidden = set[str]() if self.body.include_init_images else {"init_images", "mask"}
        return {**self.body.model_dump(exclude=hidden), **dict.fromkeys(hidden)}


@router.post("/img2img", response_model=Drawn, responses=responses(404, 409, 429, 500, 504, 507))
async def image_to_image(
    body: Image2Image, service: TheService, tenant: Tenant, pictures: ThePictures, request: Request
) -> Any:
    """Draw over pictures, or where the mask says."""
    batch = _checked(body)
    under = desk_of(request).of(tenant)
    prompt = body.prompt if body.prompt.strip() else PLAIN
    recipe, notes = recipe_of(body.model_copy(update={"prompt": prompt}), service, under)
    what = Beginning(body, service, under, notes, pictures=pictures)
    fields: list[dict[str, Any]] = []
    for source in body.init_images:
        own, part = await _begin(source, body, pictures)
        fields.append(own)
        what.parts.append(part)
    jobs = wishes.several(recipe, batch * (body.n_iter or 1), tenant=tenant, previews=True)
    jobs = [
        dataclasses.replace(job, recipe=job.recipe.replace(**fields[number % len(fields)]))
        for number, job in enumerate(jobs)
    ]
    return await draw(what, jobs, request)


def _checked(body: Image2Image) -> int:
    """Pictures of one round. Raises RecipeError for what is not offered."""
    if body.resize_mode == LATENT:
        raise RecipeError("resize_mode 3 (latent upscale) is not offered here; take 0, 1 or 2")
    if body.mask is not None and body.inpainting_fill not in {None, FROM_AROUND, ORIGINAL}:
        raise RecipeError(
            "inpainting_fill 2 and 3 (latent noise, latent nothing) are not offered here; take 0 (the colours around "
            "the mask) or 1 (the picture), and denoising_strength 1 to begin from noise alone"
        )
    count, batch = len(body.init_images), body.batch_size or 1
    if count > 1 and count > batch:
        raise RecipeError(f"init_images are {count}, and batch_size is {batch}; it must be as many at least")
    return batch if count == 1 else count


async def _begin(source: str, body: Image2Image, pictures: Pictures) -> tuple[dict[str, Any], Part | None]:
    """Fields of a recipe that begins from one of the pictures. Errors: PictureError, RecipeError, OutputError."""
    picture = await pictures.read(await pictures.bytes_of(source, bare=True))
    size = None
    if body.width and body.height:
        size = body.width, body.height
    elif body.width or body.height:
        size = other_side(picture.size, body.width, body.height, STEP)
    fields: dict[str, Any] = {"strength": 0.75 if body.denoising_strength is None else body.denoising_strength}
    if size is not None:
        fields |= {"width": size[0], "height": size[1]}
        pictures.service.check_size(*size)
    if body.mask is None:
        picture = await pictures.apart(lambda: _at_size(picture, size, body.resize_mode))
        return {**fields, "image": await pictures.keep(picture)}, None
    mask = await pictures.read(await pictures.bytes_of(body.mask, bare=True), "mask", strokes=True)
    picture, mask, part = await pictures.apart(lambda: _masked(picture, mask, size, body))
    fields |= {"image": await pictures.keep(picture), "mask": await pictures.keep(mask)}
    return {**fields, "mask_blur": _blur(body), "paste_back": part is None}, part


def _masked(
    picture: InputPicture, mask: InputPicture, size: tuple[int, int] | None, body: Image2Image
) -> tuple[InputPicture, InputPicture, Part | None]:
    """Picture and mask as they are drawn, and what the result is put back into. Raises RecipeError."""
    mask = inpaint.inverted(mask) if body.inpainting_mask_invert else mask
    check_mask(mask, picture)
    mask = inpaint.stretched(mask, *picture.size)
    begun = inpaint.filled(picture, mask) if body.inpainting_fill in {None, FROM_AROUND} else picture
    if body.inpaint_full_res is False:
        return _at_size(begun, size, body.resize_mode), _at_size(mask, size, body.resize_mode), None
    box = inpaint.masked_part(mask, body.inpaint_full_res_padding or 0, size)
    part = Part(picture=picture, mask=mask, box=box, blur=_blur(body))
    mode = None if size is None else INSET
    begun, cut = inpaint.cropped(begun, box), inpaint.cropped(mask, box)
    return _at_size(begun, size, mode), _at_size(cut, size, mode), part


def _at_size(picture: InputPicture, size: tuple[int, int] | None, mode: int | None) -> InputPicture:
    """As large as it is drawn; what is to be cropped is cropped when it is drawn."""
    if size is None or mode == CROP:
        return picture
    return inpaint.inset(picture, *size) if mode == INSET else inpaint.stretched(picture, *size)


def _blur(body: Image2Image) -> float:
    sides = (4.0 if side is None else side for side in (body.mask_blur_x, body.mask_blur_y))
    return max(sides) if body.mask_blur is None else body.mask_blur
