"""OpenAI's Images API for pictures to begin from: edits and variations, as forms with files.

An edit is image to image, with a mask inpainting. A variation is image to image with the prompt that stands in the
picture's file, or none to speak of.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from laur.core.errors import LaurError, RecipeError
from laur.core.recipe import PROMPT_LIMIT, SEED_LIMIT, STEPS_LIMIT, Recipe
from laur.serve.http import wishes
from laur.serve.http.common import Tenant, TheService
from laur.serve.http.openai import STAND_INS, Images, Stream, draw, wants_url
from laur.serve.http.pictures import Pictures, ThePictures
from laur.serve.http.problem import responses
from laur.serve.service import Service

router = APIRouter(prefix="/v1", tags=["openai"])
FAITHFUL = 0.5
"""Strength for `input_fidelity` high, without a mask."""
VARIATION = 0.5
"""Strength of a variation: the picture's layout stays, its details change."""
PLAIN = "a picture"
"""Prompt of a variation of a picture whose file names none."""
_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")
"""What another program's adapters are called by, which need not be here."""
_RESPONSES: dict[int | str, dict[str, Any]] = responses(404, 409, 429, 500, 504, 507)
_STREAM = {"content": {"text/event-stream": {}}, "description": "Pictures, or with `stream` events."}


class Common(BaseModel):
    """What both forms take; further fields are OpenAI's that change nothing here."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = Field(None, max_length=200)
    n: int | None = Field(1, ge=1, le=10)
    size: str | None = Field(None, max_length=20)
    response_format: Literal["url", "b64_json"] | None = None
    # ours
    strength: float | None = Field(None, ge=0.0, le=1.0)
    negative_prompt: str = Field("", max_length=PROMPT_LIMIT)
    seed: int | None = Field(None, ge=0, le=SEED_LIMIT - 100)
    steps: int | None = Field(None, ge=1, le=STEPS_LIMIT)
    guidance: float | None = Field(None, ge=0.0, le=100.0)
    sampler: Literal["lcm", "tcd", "ddim", "euler", "dpm++2m"] | None = None
    style: str | None = Field(None, min_length=1, max_length=200, pattern=r"\S")

    def recipe(self, service: Service, **fields: Any) -> Recipe:
        """Raises RecipeError, NotFoundError."""
        names = ("strength", "negative_prompt", "seed", "steps", "guidance", "sampler", "style")
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        model = wishes.checkpoint(service, self.model, stand_ins=STAND_INS)
        values: dict[str, Any] = {**own, **wishes.size(self.size), "checkpoint": model, **fields}
        return Recipe(**values)


class Edit(Common):
    """What images.edit sends."""

    prompt: str = Field(min_length=1, max_length=PROMPT_LIMIT, pattern=r"\S")
    image: list[UploadFile] = Field(default=[], description="The picture to begin from; one.")
    images: list[UploadFile] = Field(default=[], alias="image[]", description="The same, as lists are sent.")
    mask: UploadFile | None = Field(None, description="Transparent, or white where all is opaque, is drawn anew.")
    markup: UploadFile | None = None
    input_fidelity: Literal["high", "low"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    stream: bool | None = False
    partial_images: int | None = Field(0, ge=0, le=3)


class Variation(Common):
    """What images.create_variation sends."""

    image: UploadFile
    prompt: str | None = Field(None, max_length=PROMPT_LIMIT)


@router.post("/images/edits", response_model=Images, responses={200: _STREAM, **_RESPONSES})
async def edit(
    form: Annotated[Edit, Form(media_type="multipart/form-data")],
    service: TheService,
    tenant: Tenant,
    pictures: ThePictures,
    request: Request,
) -> Any:
    """Draw over a picture, or where the mask says. With `stream` partial images come as server-sent events."""
    given = await _given(form, pictures)
    strength = form.strength
    if strength is None and "mask" not in given and form.input_fidelity == "high":
        strength = FAITHFUL
    recipe = form.recipe(service, prompt=form.prompt, strength=strength, **given)
    stream = Stream("image_edit", form.partial_images or 0) if form.stream else None
    jobs = wishes.several(
        recipe,
        form.n or 1,
        tenant=tenant,
        format=form.output_format or "png",
        previews=bool(stream and stream.partial),
    )
    return await draw(service, jobs, request, as_url=wants_url(form.response_format, form.model), stream=stream)


@router.post("/images/variations", response_model=Images, responses=_RESPONSES)
async def variation(
    form: Annotated[Variation, Form(media_type="multipart/form-data")],
    service: TheService,
    tenant: Tenant,
    pictures: ThePictures,
    request: Request,
) -> Any:
    """Draw pictures like this one."""
    content = await form.image.read()
    image = await pictures.settle(content)
    prompt = (form.prompt or "").strip() or await asyncio.to_thread(_prompt_in, content)
    strength = VARIATION if form.strength is None else form.strength
    recipe = form.recipe(service, prompt=prompt, strength=strength, image=image)
    jobs = wishes.several(recipe, form.n or 1, tenant=tenant)
    return await draw(service, jobs, request, as_url=wants_url(form.response_format, form.model), stream=None)


async def _given(form: Edit, pictures: Pictures) -> dict[str, Any]:
    """What an edit begins from, as fields of a Recipe. Errors: RecipeError, PictureError, OutputError."""
    files = [*form.image, *form.images]
    if len(files) != 1:
        raise RecipeError(f"an edit begins from one image here, and {len(files)} were sent")
    if form.markup is not None:
        raise RecipeError("markup is not offered here; mark what is drawn anew with a mask")
    content = await files[0].read()
    given: dict[str, Any] = {"image": await pictures.settle(content)}
    if form.mask is not None:
        given["mask"] = await pictures.settle(await form.mask.read(), "mask")
    elif (form.model or "").startswith("dall-e-2"):  # whose edits without a mask go by the image's own holes
        holes = await pictures.holes(content)
        if holes is not None:
            given["mask"] = await pictures.keep(holes)
    return given


def _prompt_in(content: bytes) -> str:
    """The prompt that a picture's file says it was made with."""
    from laur.render.metadata import read

    try:
        found = read(content)
    except LaurError:
        return PLAIN
    prompt = found.recipe.prompt if found.recipe is not None else _TAG.sub("", found.parsed.get("Prompt", ""))
    return prompt.encode(errors="replace").decode().strip()[:PROMPT_LIMIT] or PLAIN
