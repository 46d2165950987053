"""An accelerator that is known by its name brings its sampler, timesteps, guidance and eta; wishes come first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline.engine import Engine


def named(folder: Path, name: str, engine: Engine) -> AdapterRef:
    """A LoRA that changes little, under the name of a published one."""
    info = engine.library.checkpoint("mini")
    out, inner, *kernel = engine.library.layers(info.key)["unet.conv_in"].weight
    path = folder / f"{name}.safetensors"
    own = 1e-4 * (1 + list(CASES).index(name))  # equal content is one adapter, whatever it is called
    state = {
        "unet.conv_in.lora_A.weight": torch.full((1, inner, *kernel), own),
        "unet.conv_in.lora_B.weight": torch.full((out, 1, 1, 1), 1e-4),
    }
    save_file(state, path)
    return AdapterRef(name=str(path))


CASES = {
    "sdxl_lightning_4step_lora": ("euler", (999, 749, 499, 249), 1.0, None),
    "Hyper-SDXL-8steps-CFG-lora": ("euler", (999, 874, 749, 624, 499, 374, 249, 124), 5.0, None),
    "Hyper-SD15-1step-lora": ("tcd", None, 1.0, 1.0),
    "dmd2_sdxl_4step_lora_fp16": ("lcm", (999, 749, 499, 249), 1.0, None),
    "pcm_sd15_smallcfg_2step_converted": ("euler", (999, 499), 1.0, None),
    "TCD-SD15-LoRA": ("tcd", None, 1.0, 0.3),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_sampled_as_it_was_made_for(name: str, tmp_path: Path, engine32: Engine) -> None:
    ref = named(tmp_path, name, engine32)
    resolved = engine32.resolve(Recipe(prompt="a fox", seed=1, adapters=(ref,)))
    filled = resolved.recipe
    sampler, timesteps, guidance, eta = CASES[name]
    assert (filled.sampler, filled.timesteps, filled.guidance, filled.eta) == (sampler, timesteps, guidance, eta)
    assert filled.steps == (len(timesteps) if timesteps else 1 if "1step" in name else 4)
    assert [ref.name for ref in filled.adapters or ()] == [ref.name], "no LCM-LoRA beside it"
    assert resolved.warnings == ()
    again = engine32.resolve(Recipe.from_json(filled.to_json()))
    assert again.recipe == filled and again.plan.key == resolved.plan.key


def test_wishes_come_first_and_other_steps_stay_trailing(tmp_path: Path, engine32: Engine) -> None:
    ref = named(tmp_path, "sdxl_lightning_4step_lora", engine32)
    six = engine32.resolve(Recipe(prompt="a fox", seed=1, adapters=(ref,), steps=2, guidance=1.5)).recipe
    assert (six.timesteps, six.guidance) == ((999, 499), 1.5)
    other = engine32.resolve(Recipe(prompt="a fox", seed=1, adapters=(ref,), sampler="ddim"))
    assert other.recipe.timesteps is None
    assert any("distilled for euler" in note for note in other.warnings)
