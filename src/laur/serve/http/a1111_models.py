"""Bodies of AUTOMATIC1111's API, as its clients send and read them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from laur.core.recipe import PROMPT_LIMIT


class Text2Image(BaseModel):
    """What txt2img takes; fields of extensions and of what changes nothing here are ignored."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(min_length=1, max_length=PROMPT_LIMIT, pattern=r"\S")
    negative_prompt: str | None = Field("", max_length=PROMPT_LIMIT)
    seed: int | None = Field(-1, ge=-1, le=2**52)
    sampler_name: str | None = Field(None, max_length=100)
    sampler_index: str | None = Field(None, max_length=100)
    batch_size: int | None = Field(1, ge=1, le=16)
    n_iter: int | None = Field(1, ge=1, le=16)
    steps: int | None = Field(None, ge=1, le=1000)
    cfg_scale: float | None = Field(None, ge=0.0, le=100.0)
    width: int | None = Field(None, ge=16, le=16384)
    height: int | None = Field(None, ge=16, le=16384)
    override_settings: dict[str, Any] | None = None
    send_images: bool | None = True
    enable_hr: bool | None = False


class Image2Image(Text2Image):
    """What img2img takes."""

    prompt: str = Field("", max_length=PROMPT_LIMIT)
    init_images: list[str] = Field(min_length=1, max_length=16, description="In base64 or as data URLs.")
    denoising_strength: float | None = Field(0.75, ge=0.0, le=1.0)
    resize_mode: int | None = Field(0, ge=0, le=3, description="0 stretches, 1 crops, 2 continues edges; 3 is refused.")
    mask: str | None = Field(None, description="White, or painted where it has transparency, is drawn anew.")
    mask_blur: float | None = Field(None, ge=0.0, le=256.0)
    mask_blur_x: float | None = Field(4, ge=0.0, le=256.0)
    mask_blur_y: float | None = Field(4, ge=0.0, le=256.0)
    inpainting_fill: int | None = Field(
        0, ge=0, le=3, description="0: the colours around the mask, 1: the picture; 2 and 3 are refused."
    )
    inpaint_full_res: bool | None = Field(True, description="Only the masked part is drawn, at the whole size.")
    inpaint_full_res_padding: int | None = Field(0, ge=0, le=4096)
    inpainting_mask_invert: int | None = Field(0, ge=0, le=1)
    include_init_images: bool | None = False


class Drawn(BaseModel):
    """Pictures in base64, and what was asked for."""

    images: list[str]
    parameters: dict[str, Any]
    info: str = Field(description="JSON, as A1111 gives it.")


class InfoBody(BaseModel):
    """A picture in base64 or as a data URL."""

    image: str = Field(max_length=100_000_000)


class Info(BaseModel):
    """What stands in a picture's file."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


class Progress(BaseModel):
    """Of what this tenant has under way here."""

    progress: float
    eta_relative: float
    state: dict[str, Any]
    current_image: str | None
    textinfo: str | None = None


class Named(BaseModel):
    """A sampler."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class ModelItem(BaseModel):
    """A checkpoint."""

    title: str
    model_name: str
    hash: str | None = None
    sha256: str | None = None
    filename: str
    config: str | None = None


class LoraItem(BaseModel):
    """An adapter."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any]
