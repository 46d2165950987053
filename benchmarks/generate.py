"""How long does `mini` take from prompt to pixels, beside diffusers, its own teacher and OpenVINO?

256x256, the same weights, one process, all candidates taking turns. LCM-LoRA is fused for diffusers and OpenVINO too,
which is their fastest form. OpenVINO runs the same UNet and decoder, and our sampler around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import arguments, interleaved, report, summary
from openvino_modules import openvino_engine

import laur.models
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine

PROMPTS = [
    "a red apple, fluent 3d",
    "castle, fluent gradient",
    "birthday cake, plump",
    "fox, emojione",
    "blue rocket, game silhouette",
    "green tree, noto",
    "dog face, fluent 3d",
    "red dragon, noto",
]


def recipes(count: int, **fields: Any) -> list[Recipe]:
    """One recipe per prompt, seeds counting up."""
    return [Recipe(prompt=prompt, seed=7 + i, **fields) for i, prompt in enumerate(PROMPTS[:count])]


def with_diffusers(dtype: torch.dtype) -> Callable[[int], Any]:
    """diffusers' own pipeline with LCMScheduler and the LoRA fused."""
    from diffusers import LCMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(laur.models.checkpoint_folder("mini"), dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(laur.models.adapter_file("lcm-lora-mini"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)

    def draw(count: int) -> Any:
        seeds = [torch.Generator().manual_seed(7 + i) for i in range(count)]
        return pipe(
            PROMPTS[:count], num_inference_steps=4, guidance_scale=1.0, height=256, width=256, generator=seeds
        ).images

    return draw


def fresh(engine: Engine, count: int, **fields: Any) -> list[Any]:
    """Draw with the text encoded anew, as diffusers does: its share is part of the question."""
    engine.library.states.clear()
    return engine.run(recipes(count, **fields))


def main() -> None:
    """Measure and report."""
    found = arguments(__doc__.splitlines()[0])
    ours, ours32 = Engine("mini", dtype="bfloat16"), Engine("mini", dtype="float32")
    ov = openvino_engine()
    slow, half = with_diffusers(torch.float32), with_diffusers(torch.bfloat16)
    one = {
        "diffusers_float32": lambda: slow(1),
        "diffusers_bfloat16": lambda: half(1),
        "laur_bfloat16": lambda: fresh(ours, 1),
        "laur_float32": lambda: fresh(ours32, 1),
        "openvino_bfloat16": lambda: fresh(ov, 1),
        "laur_teacher_16_steps": lambda: fresh(ours, 1, sampler="ddim", steps=16, guidance=4.0),
        "laur_teacher_32_steps": lambda: fresh(ours, 1, sampler="ddim", steps=32, guidance=4.0),
    }
    eight = {
        "diffusers_float32": lambda: slow(8),
        "diffusers_bfloat16": lambda: half(8),
        "laur_bfloat16": lambda: fresh(ours, 8),
        "openvino_bfloat16": lambda: fresh(ov, 8),
    }
    single = interleaved(one, found.repeats)
    batch = interleaved(eight, found.repeats)
    first, second = summary(single, "diffusers_float32"), summary(batch, "diffusers_float32")
    for row in second.values():
        row["pictures_per_second"] = 8 / row["median_s"]
    ratio = [a / b for a, b in zip(single["laur_bfloat16"], single["openvino_bfloat16"], strict=True)]
    figures = {
        "batch_1": first,
        "batch_8": second,
        "laur_time_over_openvino": sorted(ratio)[len(ratio) // 2],
        "batch_8_pictures_per_second_over_batch_1": 8
        * first["laur_bfloat16"]["median_s"]
        / second["laur_bfloat16"]["median_s"],
        "lcm_lora_over_teacher": {
            steps: first[f"laur_teacher_{steps}_steps"]["median_s"] / first["laur_bfloat16"]["median_s"]
            for steps in (16, 32)
        },
    }
    report("generate", __doc__.splitlines()[0], figures, found.out)


if __name__ == "__main__":
    main()
