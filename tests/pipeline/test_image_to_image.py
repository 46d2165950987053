"""Image to image and inpainting against diffusers' own pipelines, same seed, float32; and what is ours alone."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    TCDScheduler,
)
from PIL import Image, ImageDraw

import laur.models
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.render.compare import psnr

PROMPT = "red dragon, noto"


def apple(width: int = 128, height: int = 128) -> Image.Image:
    """A shaded red disc with a leaf, on white."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for ring in range(40):
        box = [width * (0.2 + ring / 200), height * (0.3 + ring / 200), width * 0.8, height * 0.9]
        draw.ellipse(box, fill=(180 + ring, 20 + ring, 30))
    draw.ellipse([width * 0.5, height * 0.12, width * 0.75, height * 0.3], fill=(40, 160, 60))
    return image


def left_half(width: int = 128, height: int = 128) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, 0, width // 2, height))
    return mask


CASES = [
    ("lcm", LCMScheduler, {"steps": 4, "guidance": 1.0, "strength": 0.6}),
    ("lcm", LCMScheduler, {"steps": 6, "guidance": 1.6, "strength": 0.8, "negative_prompt": "blue"}),
    ("lcm", LCMScheduler, {"steps": 4, "guidance": 1.0, "strength": 1.0}),
    ("tcd", TCDScheduler, {"steps": 4, "guidance": 1.0, "strength": 0.8, "eta": 0.3}),
    ("ddim", DDIMScheduler, {"steps": 6, "guidance": 4.0, "strength": 0.7}),
    ("ddim", DDIMScheduler, {"steps": 6, "guidance": 4.0, "strength": 0.7, "eta": 1.0}),
    ("euler", EulerDiscreteScheduler, {"steps": 6, "guidance": 4.0, "strength": 0.7}),
    ("dpm++2m", DPMSolverMultistepScheduler, {"steps": 8, "guidance": 4.0, "strength": 0.7}),
]


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    folder = laur.models.checkpoint_folder("mini")
    first = StableDiffusionImg2ImgPipeline.from_pretrained(folder, dtype=torch.float32)
    first.load_lora_weights(laur.models.adapter_file("lcm-lora-mini"), adapter_name="lcm")
    second = StableDiffusionInpaintPipeline(**first.components, requires_safety_checker=False)
    for pipe in (first, second):
        pipe.set_progress_bar_config(disable=True)
    return {"image": first, "mask": second}


def theirs(pipe: Any, sampler: str, scheduler: type, fields: dict[str, Any], **pictures: Any) -> np.ndarray:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    (pipe.enable_lora if sampler in {"lcm", "tcd"} else pipe.disable_lora)()
    found = pipe(
        PROMPT,
        num_inference_steps=fields["steps"],
        guidance_scale=fields["guidance"],
        strength=fields["strength"],
        generator=torch.Generator().manual_seed(7),
        output_type="np",
        **{key: fields[key] for key in ("negative_prompt", "eta") if key in fields},
        **pictures,
    ).images[0]
    return (found * 255).round().astype(np.uint8)


def ours(engine: Engine, image: Image.Image, mask: Image.Image | None = None, **fields: Any) -> np.ndarray:
    return engine.pictures([recipe(engine, image, mask, **fields)])[0].pixels


def recipe(engine: Engine, image: Image.Image, mask: Image.Image | None = None, **fields: Any) -> Recipe:
    store = engine.library.inputs
    named = {"image": store.add(image).ref} | ({"mask": store.add_mask(mask).ref} if mask else {})
    return Recipe.from_dict({"prompt": PROMPT, "seed": 7, **named, **fields})


@pytest.mark.parametrize(("sampler", "scheduler", "fields"), CASES)
def test_image_to_image_equals_that_of_diffusers(
    pipes: dict[str, Any], engine32: Engine, sampler: str, scheduler: type, fields: dict[str, Any]
) -> None:
    reference = theirs(pipes["image"], sampler, scheduler, fields, image=apple())
    assert psnr(ours(engine32, apple(), sampler=sampler, **fields), reference) >= 45


@pytest.mark.parametrize(("sampler", "scheduler", "fields"), CASES)
def test_inpainting_equals_that_of_diffusers(
    pipes: dict[str, Any], engine32: Engine, sampler: str, scheduler: type, fields: dict[str, Any]
) -> None:
    reference = theirs(
        pipes["mask"], sampler, scheduler, fields, image=apple(), mask_image=left_half(), height=128, width=128
    )
    picture = ours(engine32, apple(), left_half(), sampler=sampler, paste_back=False, **fields)
    assert psnr(picture, reference) >= 45
