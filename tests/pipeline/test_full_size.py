"""One run at Stable Diffusion 1.5's full size, random weights: what holds for small models holds for large ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from helpers.ldm import to_original
from helpers.tiny import CONFIGS
from laur.core.checkpoint import Family
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine

SD1 = CONFIGS / "sd1"
UNET_PARAMETERS, TEXT_PARAMETERS, VAE_PARAMETERS = 859_520_964, 123_060_480, 83_653_863
"""Of the published model."""


def _filled(module: nn.Module) -> nn.Module:
    """Half precision, drawn from a pool: fresh draws for a billion weights would take longer than the test."""
    pool = torch.randn(2**22, generator=torch.Generator().manual_seed(0)).half()
    state = {}
    for name, parameter in module.named_parameters():
        size = parameter.numel()
        values = pool.repeat(-(-size // len(pool)))[:size].view(parameter.shape)
        scale = 0.5 / np.sqrt(np.prod(parameter.shape[1:])) if parameter.ndim > 1 else 0.02
        state[name] = values * scale + (1.0 if name.endswith("norm.weight") else 0.0)
    module.load_state_dict(state, strict=False, assign=True)
    return module


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD1 / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SD1 / "vae"))
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(SD1 / "text_encoder"))
    parts = {"unet": _filled(unet), "vae": _filled(vae), "text_encoder": _filled(text)}
    path = tmp_path / "sd15.safetensors"
    save_file(to_original("sd1", parts), path)
    return path


@pytest.mark.slow
def test_a_single_file_of_full_size_draws(checkpoint: Path) -> None:
    engine = Engine(str(checkpoint), device="cpu")
    recipe = Recipe(prompt="a red fox", seed=1, width=64, height=64, steps=1, sampler="euler")
    resolved = engine.resolve(recipe.replace(checkpoint=str(checkpoint)))
    loaded = engine.library.weights(resolved.plan.stages[0].checkpoint)
    assert loaded.info.family is Family.SD1
    assert (loaded.info.native_size, loaded.info.prediction) == (512, "epsilon")
    assert sum(p.numel() for p in loaded.unet().parameters()) == UNET_PARAMETERS
    assert sum(p.numel() for p in loaded.text_parts()[0].model.parameters()) == TEXT_PARAMETERS
    assert sum(p.numel() for p in loaded.vae().parameters()) == VAE_PARAMETERS
    (picture,) = engine.pictures([resolved])
    assert picture.pixels.shape == (64, 64, 3)
    assert picture.pixels.std() > 1
