"""The whole picture against diffusers' own pipeline, on the embedded model, same seed."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    TCDScheduler,
)

import laur.models
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.render.compare import psnr

PROMPT = "red dragon, noto"
CASES = [
    ("lcm", LCMScheduler, {"steps": 4, "guidance": 1.0}),
    ("lcm", LCMScheduler, {"steps": 2, "guidance": 1.6, "negative_prompt": "blue"}),
    ("tcd", TCDScheduler, {"steps": 4, "guidance": 1.0, "eta": 0.3}),
    ("ddim", DDIMScheduler, {"steps": 6, "guidance": 4.0, "guidance_rescale": 0.7}),
    ("euler", EulerDiscreteScheduler, {"steps": 6, "guidance": 4.0}),
    ("dpm++2m", DPMSolverMultistepScheduler, {"steps": 6, "guidance": 4.0}),
]


@pytest.fixture(scope="module")
def reference() -> StableDiffusionPipeline:
    folder = laur.models.checkpoint_folder("mini")
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(laur.models.adapter_file("lcm-lora-mini"), adapter_name="lcm")
    return pipe


@pytest.mark.parametrize(("sampler", "scheduler", "fields"), CASES)
def test_the_picture_equals_that_of_diffusers(
    reference: StableDiffusionPipeline, engine32: Engine, sampler: str, scheduler: type, fields: dict[str, float]
) -> None:
    reference.scheduler = scheduler.from_config(reference.scheduler.config)
    if sampler in {"lcm", "tcd"}:
        reference.enable_lora()
    else:
        reference.disable_lora()
    options = {key: value for key, value in fields.items() if key in {"negative_prompt", "guidance_rescale", "eta"}}
    theirs = reference(
        PROMPT,
        num_inference_steps=fields["steps"],
        guidance_scale=fields["guidance"],
        height=256,
        width=256,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
        **options,
    ).images[0]
    ours = engine32.pictures([Recipe.from_dict({"prompt": PROMPT, "seed": 7, "sampler": sampler, **fields})])[0]
    assert psnr(ours.pixels, (theirs * 255).round().astype(np.uint8)) >= 45
