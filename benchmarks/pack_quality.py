"""Do pictures from the shipped, compact `mini` equal those from the folder that it was packed from?

    python benchmarks/pack_quality.py FOLDER

Both are drawn by diffusers' own pipeline in float32 with the same seeds: 4 LCM steps with the LCM-LoRA at guidance 1,
and 30 DDIM steps at guidance 4. PSNR is given for each picture; the goal is 35 dB for every one.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import report

import laur.models

PROMPTS = (
    "dog face, fluent 3d",
    "red dragon, noto",
    "castle, fluent gradient",
    "birthday cake, plump",
    "fox, emojione",
    "blue rocket, game silhouette",
    "line drawing of a castle",
    "a person riding a bicycle, twemoji",
    "green bottle, pixel art",
    "sailing boat, fluent flat",
    "old house, clipart",
    "smiling sun, noto blob",
)
GOAL = 35.0


def main() -> None:
    """Draw with both, compare, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="what the pack was made from")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the prompts")
    found = parser.parse_args()
    logging.disable(logging.WARNING)
    prompts = PROMPTS[: found.prompts]
    (source,) = sorted((found.folder / "adapters").glob("lcm*.safetensors"))
    before = drawn(pipeline(found.folder), source, prompts)
    after = drawn(pipeline(laur.models.checkpoint_folder()), laur.models.adapter_file("lcm-lora-mini"), prompts)
    figures = {name: compared(before[name], after[name], prompts) for name in before}
    report("pack_quality", (__doc__ or "").partition("\n")[0], figures, found.out)
    short = [name for name in before if figures[name]["min_db"] < GOAL]
    if short:
        raise SystemExit(f"below {GOAL:.0f} dB: {', '.join(short)}")


def pipeline(folder: Path) -> Any:
    """diffusers' own, in float32."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, adapter: Path, prompts: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Pictures (n, height, width, 3), whole numbers 0 to 255, of both ways of sampling."""
    from diffusers import LCMScheduler

    ddim = pixels(pipe, prompts, steps=30, guidance=4.0)
    pipe.load_lora_weights(adapter)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return {"LCM-LoRA 4 steps": pixels(pipe, prompts, steps=4, guidance=1.0), "DDIM 30 steps": ddim}


def pixels(pipe: Any, prompts: tuple[str, ...], *, steps: int, guidance: float) -> np.ndarray:
    """Picture i has seed i."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    found = pipe(
        list(prompts), num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
    )
    return np.round(found.images * 255)


def compared(before: np.ndarray, after: np.ndarray, prompts: tuple[str, ...]) -> dict[str, Any]:
    """PSNR in dB of each picture; 100 stands for equal pixels."""
    errors = ((before - after) ** 2).mean(axis=(1, 2, 3))
    decibels = [float(10 * np.log10(255**2 / max(error, 255**2 * 1e-10))) for error in errors]
    return {
        "min_db": round(min(decibels), 1),
        "median_db": round(float(np.median(decibels)), 1),
        "pictures_db": {prompt: round(value, 1) for prompt, value in zip(prompts, decibels, strict=True)},
    }


if __name__ == "__main__":
    main()
