"""diffusers' `load_lora_weights` and this reader draw alike on every family, whichever way a file is written."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from lora_kit import distance, factors, merge_into

from helpers.tiny import tiny_parts
from laur.optimize.deltas import LowRank
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes
from laur.optimize.write import save

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers and peft about themselves


@torch.no_grad()
def states(unet, text_encoder) -> tuple[torch.Tensor, torch.Tensor]:
    """One fixed pass of each."""
    draw = torch.Generator().manual_seed(5)
    context = torch.randn(1, 5, unet.config.cross_attention_dim, generator=draw)
    added = None
    if unet.config.addition_embed_type:
        width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(1, width, generator=draw), "time_ids": torch.ones(1, 6) * 64}
    latent = torch.randn(1, 4, 8, 8, generator=draw)
    ids = torch.tensor([[49406, 7, 9, 49407]])
    return (
        unet(latent, torch.tensor([700.0]), context, added_cond_kwargs=added).sample,
        text_encoder(ids).last_hidden_state,
    )


@pytest.mark.parametrize("family", ["sd2", "ssd-1b"])
@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_a_pipeline_of_the_family_draws_alike(format, family, tmp_path):
    """Attention layers of the UNet and of the text encoder, of one rank and alpha, which diffusers reads as written."""
    parts = tiny_parts(family)
    unet, clip = parts["unet"], parts["text_encoder"]
    found = factors(unet, "unet", only=".to_", alpha=3.0) | factors(clip, "text_encoder", only="_proj", alpha=3.0)
    found = {name: f for name, f in found.items() if f[1].shape[0] == 4}
    deltas = {name: LowRank(up, down, 3.0 / 4) for name, (up, down, _) in found.items()}
    layers = layer_shapes(unet, "unet") | layer_shapes(clip, "text_encoder")
    if family == "ssd-1b":
        layers |= layer_shapes(parts["text_encoder_2"], "text_encoder_2")
    path = tmp_path / "a.safetensors"
    # SSD-1B lacks blocks that diffusers counts on when it reads Stability's names: those of diffusers, then
    save(path, deltas, format=format, model_layers=() if family == "ssd-1b" else layers)
    adapter = LoraFile(path)
    assert adapter.coverage(layers).left == {}

    ours = copy.deepcopy((unet, clip))
    for module, prefix in zip(ours, ("unet", "text_encoder"), strict=True):
        merge_into(module, prefix, adapter.deltas(layer_shapes(module, prefix)))
    before = states(unet, clip)
    kind = StableDiffusionXLPipeline if family == "ssd-1b" else StableDiffusionPipeline
    rest = {"tokenizer": None, "scheduler": None, "vae": None}
    if family == "ssd-1b":
        rest |= {"text_encoder_2": parts["text_encoder_2"], "tokenizer_2": None}
    else:
        rest |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = kind(unet=unet, text_encoder=clip, **rest)
    pipe.load_lora_weights(str(path))
    for mine, theirs, plain in zip(states(*ours), states(unet, clip), before, strict=True):
        assert distance(theirs, plain) > 1e-3
        assert distance(mine, theirs) <= 1e-5
