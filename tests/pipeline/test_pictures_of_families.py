"""Image to image with autoencoders that draw from a posterior: exact architectures, reduced width, random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    LatentConsistencyModelImg2ImgPipeline,
    LCMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from helpers.tiny import tiny_folder
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.render.compare import psnr

PROMPT, SIDE = "a red fox in the snow", 64


def picture() -> Image.Image:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return Image.fromarray(np.stack([rows * 3, columns * 3, (rows + columns)], axis=2).astype(np.uint8))


def hole() -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (16, 8, 56, 40))
    return mask


def theirs(kind: Any, folder: Path, scheduler: Any, **call: Any) -> np.ndarray:
    pipe = kind.from_pretrained(folder, safety_checker=None, requires_safety_checker=False, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    found = pipe(PROMPT, generator=torch.Generator().manual_seed(3), output_type="np", image=picture(), **call).images
    return (found[0] * 255).round().astype(np.uint8)


def ours(folder: Path, *, masked: bool = False, **fields: Any) -> np.ndarray:
    engine = Engine(str(folder), device="cpu", dtype="float32")
    wish = {"prompt": PROMPT, "seed": 3, "width": SIDE, "height": SIDE, **fields}
    wish["image"] = engine.library.inputs.add(picture()).ref
    if masked:
        wish |= {"mask": engine.library.inputs.add_mask(hole()).ref, "paste_back": False}
    return engine.pictures([Recipe.from_dict(wish)])[0].pixels


def test_sdxl_from_a_picture(tmp_path: Path) -> None:
    folder = tiny_folder("sdxl", tmp_path / "xl")
    call = {"num_inference_steps": 6, "guidance_scale": 5.0, "strength": 0.7}
    reference = theirs(StableDiffusionXLImg2ImgPipeline, folder, EulerDiscreteScheduler, **call)
    assert psnr(ours(folder, sampler="euler", steps=6, guidance=5.0, strength=0.7), reference) >= 45


@pytest.mark.parametrize(
    ("family", "kind", "strength"),
    [
        ("sd1", StableDiffusionInpaintPipeline, 0.7),
        ("sd1", StableDiffusionInpaintPipeline, 1.0),
        ("sdxl", StableDiffusionXLInpaintPipeline, 0.7),
    ],
)
def test_inpainting_draws_in_diffusers_order(tmp_path: Path, family: str, kind: Any, strength: float) -> None:
    folder = tiny_folder(family, tmp_path / family)
    call = {"num_inference_steps": 4, "guidance_scale": 1.0, "strength": strength}
    reference = theirs(kind, folder, LCMScheduler, mask_image=hole(), height=SIDE, width=SIDE, **call)
    picture = ours(folder, masked=True, sampler="lcm", steps=4, guidance=1.0, strength=strength, adapters=())
    assert psnr(picture, reference) >= 45


def test_a_full_lcm_takes_all_its_steps_below_the_strength(tmp_path: Path) -> None:
    folder = tiny_folder("sd1", tmp_path / "lcm")
    config = UNet2DConditionModel.load_config(folder / "unet") | {"time_cond_proj_dim": 64}
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    call = {"num_inference_steps": 3, "guidance_scale": 8.0, "strength": 0.5}
    reference = theirs(LatentConsistencyModelImg2ImgPipeline, folder, LCMScheduler, **call)
    picture = ours(folder, steps=3, guidance=8.0, strength=0.5)
    assert psnr(picture, reference) >= 45
