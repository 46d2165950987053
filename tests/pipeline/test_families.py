"""Every family draws what diffusers' pipeline draws: exact architectures, reduced width, random weights, float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)

from helpers.tiny import tiny_folder, tiny_single_file
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.render.compare import psnr

PROMPT, NEGATIVE, SIDE = "a red fox in the snow", "blue", 64


def theirs(kind: Any, folder: Path, scheduler: Any, **call: Any) -> np.ndarray:
    pipe = kind.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    size = {} if "image" in call else {"height": SIDE, "width": SIDE}
    generator = torch.Generator().manual_seed(3)
    out = pipe(PROMPT, generator=generator, **{"output_type": "np", **size, **call}).images[0]
    return out if isinstance(out, torch.Tensor) else (out * 255).round().astype(np.uint8)


def ours(folder: Path, **fields: Any) -> np.ndarray:
    engine = Engine(str(folder), device="cpu", dtype="float32")
    wish = {"prompt": PROMPT, "checkpoint": str(folder), "seed": 3, "width": SIDE, "height": SIDE, **fields}
    return engine.pictures([Recipe.from_dict(wish)])[0].pixels


@pytest.mark.parametrize(
    ("family", "kind", "scheduler"),
    [
        ("sd1", StableDiffusionPipeline, {}),
        ("sd2", StableDiffusionPipeline, {"prediction": "v_prediction"}),
        ("sd2", StableDiffusionPipeline, {"prediction": "v_prediction", "rescale_betas_zero_snr": True}),
        ("sdxl", StableDiffusionXLPipeline, {}),
        ("ssd-1b", StableDiffusionXLPipeline, {}),
    ],
)
def test_a_guided_picture_equals_that_of_diffusers(
    tmp_path: Path, family: str, kind: Any, scheduler: dict[str, Any]
) -> None:
    folder = tiny_folder(family, tmp_path / family, **scheduler)
    call = {"num_inference_steps": 5, "guidance_scale": 5.0, "negative_prompt": NEGATIVE}
    reference = theirs(kind, folder, EulerDiscreteScheduler, **call)
    picture = ours(folder, sampler="euler", steps=5, guidance=5.0, negative_prompt=NEGATIVE)
    assert psnr(picture, reference) >= 45


def test_sdxl_without_negative_prompt_takes_zeros(tmp_path: Path) -> None:
    folder = tiny_folder("sdxl", tmp_path / "xl")
    call = {"num_inference_steps": 4, "guidance_scale": 5.0}
    reference = theirs(StableDiffusionXLPipeline, folder, EulerDiscreteScheduler, **call)
    assert psnr(ours(folder, sampler="euler", steps=4, guidance=5.0), reference) >= 45


def test_a_full_lcm_is_told_guidance_minus_one(tmp_path: Path) -> None:
    folder = tiny_folder("sd1", tmp_path / "lcm")
    _embed_guidance(folder)
    call = {"num_inference_steps": 4, "guidance_scale": 8.0}
    reference = theirs(StableDiffusionPipeline, folder, LCMScheduler, **call)
    engine = Engine(str(folder), device="cpu", dtype="float32")
    resolved = engine.resolve(Recipe(prompt=PROMPT, guidance=8.0, seed=3, width=SIDE, height=SIDE))
    assert resolved.recipe.sampler == "lcm"
    assert [row.guidance_embedding for row in resolved.plan.stages[0].rows] == [7.0]
    assert psnr(engine.pictures([resolved])[0].pixels, reference) >= 45


def _embed_guidance(folder: Path) -> None:
    """Give the UNet of a folder a guidance input, random as the rest."""
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(folder / "unet") | {"time_cond_proj_dim": 64}
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")


def test_base_then_refiner_is_one_plan_of_two_stages(tmp_path: Path) -> None:
    base, refiner = tiny_folder("sdxl", tmp_path / "base"), tiny_folder("sdxl-refiner", tmp_path / "refiner", seed=1)
    shared = {"num_inference_steps": 10, "guidance_scale": 5.0, "negative_prompt": NEGATIVE}
    latent = theirs(
        StableDiffusionXLPipeline, base, EulerDiscreteScheduler, **shared, denoising_end=0.7, output_type="latent"
    )
    reference = theirs(
        StableDiffusionXLImg2ImgPipeline,
        refiner,
        EulerDiscreteScheduler,
        **shared,
        denoising_start=0.7,
        image=latent[None],
    )
    fields = {"sampler": "euler", "steps": 10, "guidance": 5.0, "negative_prompt": NEGATIVE}
    picture = ours(base, **fields, refiner=str(refiner), refiner_start=0.7)
    assert psnr(picture, reference) >= 45


@pytest.mark.parametrize("family", ["sd1", "sdxl", "ssd-1b"])
def test_a_single_file_draws_what_its_folder_draws(tmp_path: Path, family: str) -> None:
    folder, file = tiny_folder(family, tmp_path / "folder"), tiny_single_file(family, tmp_path / "one.safetensors")
    fields = {"sampler": "dpm++2m", "steps": 3, "guidance": 4.0}
    assert psnr(ours(folder, **fields), ours(file, **fields)) >= 80


def test_pictures_of_several_families_step_in_one_engine(tmp_path: Path) -> None:
    one, two = tiny_folder("sd1", tmp_path / "one"), tiny_folder("sdxl", tmp_path / "two")
    wishes = [
        Recipe(prompt=PROMPT, checkpoint=str(folder), seed=3, steps=2, sampler="euler", width=SIDE, height=SIDE)
        for folder in (one, two, one)
    ]
    engine = Engine(str(one), device="cpu", dtype="float32")
    together = [picture.pixels for picture in engine.pictures(wishes)]
    for wish, picture in zip(wishes, together, strict=True):
        assert psnr(engine.pictures([wish])[0].pixels, picture) >= 80


def test_folders_that_share_weights_but_not_configs_stay_apart(tmp_path: Path) -> None:
    one, two = tiny_folder("sd1", tmp_path / "one"), tiny_folder("sd1", tmp_path / "two")
    config = json.loads((two / "vae/config.json").read_text())
    (two / "vae/config.json").write_text(json.dumps(config | {"scaling_factor": 0.5}))
    fields = {"prompt": PROMPT, "seed": 3, "steps": 2, "sampler": "euler", "width": SIDE, "height": SIDE}
    engine = Engine(str(one), device="cpu", dtype="float32")
    jobs = [engine.resolve(Recipe.from_dict({**fields, "checkpoint": str(folder)})) for folder in (one, two)]
    assert jobs[0].recipe.checkpoint_sha256 == jobs[1].recipe.checkpoint_sha256
    assert jobs[0].plan.key != jobs[1].plan.key
    together = engine.pictures(jobs)
    assert psnr(together[1].pixels, ours(two, **{key: fields[key] for key in ("steps", "sampler")})) >= 80
    assert psnr(together[0].pixels, together[1].pixels) < 60
