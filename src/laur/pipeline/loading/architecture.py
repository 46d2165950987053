"""Which architecture a single file holds, by the names and shapes of its tensors alone.

Widths are read from the shapes, so that reduced models load as well; what shapes cannot tell (heads, activations, the
noise schedule) is the family's own and comes from the configs shipped under laur/models/configs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import laur.models
from laur.core.checkpoint import Family
from laur.core.errors import CheckpointError
from laur.utils.safetensors_header import Header

UNET, VAE = "model.diffusion_model.", "first_stage_model."
_XL_CLIP_L, _XL_CLIP_G = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
_REFINER_CLIP_G = "conditioner.embedders.0.model."
_SD1_CLIP_L, _SD2_CLIP_H = "cond_stage_model.transformer.", "cond_stage_model.model."

PREFIXES: dict[Family, dict[str, str]] = {
    Family.SD1: {"unet": UNET, "vae": VAE, "text_encoder": _SD1_CLIP_L},
    Family.SD2: {"unet": UNET, "vae": VAE, "text_encoder": _SD2_CLIP_H},
    Family.SDXL: {"unet": UNET, "vae": VAE, "text_encoder": _XL_CLIP_L, "text_encoder_2": _XL_CLIP_G},
    Family.SSD1B: {"unet": UNET, "vae": VAE, "text_encoder": _XL_CLIP_L, "text_encoder_2": _XL_CLIP_G},
    Family.SDXL_REFINER: {"unet": UNET, "vae": VAE, "text_encoder_2": _REFINER_CLIP_G},
}
"""What the tensors of each component begin with."""

_OTHER_INPUTS = {9: "an inpainting model", 8: "an image-editing model", 7: "an upscaler", 5: "a depth-to-image model"}
_SPECIAL_KEYS = {
    "edm_mean": "it is Playground v2.5, whose EDM formulation Laur does not sample",
    "edm_vpred.sigma_max": "it is a CosXL model, whose EDM formulation Laur does not sample",
}
_FOREIGN: tuple[tuple[str, str], ...] = (
    (
        r"lora_(?:unet|te)|\.lora_(?:up|down|A|B)\b|\.hada_w|\.lokr_w|\.oft_blocks",
        "a LoRA adapter; give it with --adapter",
    ),
    (r"^control_model\.|^controlnet_|input_hint_block", "a ControlNet; it steers a model and is none"),
    (r"^(?:model\.diffusion_model\.)?double_blocks\.", "a Flux or Hunyuan model"),
    (r"^(?:model\.diffusion_model\.)?joint_blocks\.", "a Stable Diffusion 3 model"),
    (r"^(?:model\.diffusion_model\.)?(?:layers|blocks|transformer_blocks)\.\d", "a diffusion transformer"),
    (r"motion_modules\.|temporal_transformer", "an AnimateDiff motion module"),
    (r"^(?:down_blocks|up_blocks|mid_block)\.", "the UNet of a diffusers folder; give the folder above it"),
    (r"^(?:first_stage_model\.)?(?:encoder|decoder)\.(?:conv_in|layers)|^quant_conv", "an autoencoder alone"),
    (r"^(?:text_model|vision_model|cond_stage_model|conditioner|embeddings)\.", "a text encoder alone"),
    (r"^(?:emb_params|string_to_param|clip_[lg])$", "a textual inversion, which adds a word and is no model"),
    (r"^(?:conv_first|body\.\d|model\.0)\b", "an upscaler"),
    (r"^(?:model|language_model|transformer)\.(?:layers|h|embed_tokens)\b", "a language model"),
)
"""Telling keys, the most telling first."""


def configs_folder(family: Family) -> Path:
    """The shipped configs of a family, in the layout of a diffusers folder."""
    return Path(laur.models.__file__).parent / "configs" / family.value


def shipped(family: Family, file: str) -> dict[str, Any]:
    """One of the family's shipped configs, unet/config.json say."""
    return json.loads((configs_folder(family) / file).read_text("utf-8"))


def family_of(header: Header, name: str) -> Family:
    """The family of the file with this header. Raises CheckpointError, saying what the file is instead."""
    keys = header.tensors
    for key, reason in _SPECIAL_KEYS.items():
        if key in keys:
            raise CheckpointError(f"{name} cannot be drawn with: {reason}")
    stem = header.tensors.get(f"{UNET}input_blocks.0.0.weight")
    if stem is None or len(stem.shape) != 4:
        raise CheckpointError(f"{name} is not a Stable Diffusion model: {_foreign(keys)}")
    if stem.shape[1] != 4:
        what = _OTHER_INPUTS.get(stem.shape[1], "another kind of model")
        raise CheckpointError(f"{name} is {what}: its UNet takes {stem.shape[1]} channels and Laur draws with 4")
    if any("time_stack" in key or "temporal" in key for key in keys):
        raise CheckpointError(f"{name} is a video model; give a Stable Diffusion model of pictures")
    family = _by_text_encoder(keys)
    if family is None:
        raise CheckpointError(f"{name} has no text encoder that Laur knows; give a whole checkpoint, not a pruned one")
    if not any(key.startswith(VAE) for key in keys):
        raise CheckpointError(f"{name} has no autoencoder (first_stage_model); give a checkpoint with its VAE baked in")
    return family


def unet_config(family: Family, header: Header) -> dict[str, Any]:
    """The family's UNet config with the widths of this file."""
    shapes = {key.removeprefix(UNET): info.shape for key, info in header.tensors.items() if key.startswith(UNET)}
    config = shipped(family, "unet/config.json")
    blocks, layers = len(config["down_block_types"]), int(config["layers_per_block"])
    widths = [
        _side(shapes, f"input_blocks.{1 + (layers + 1) * block}.0.out_layers.3.weight", 0) for block in range(blocks)
    ]
    config["block_out_channels"] = widths
    if isinstance(config["attention_head_dim"], list):  # heads of 64 channels; SD 1 has 8 heads whatever the width
        config["attention_head_dim"] = [max(1, width // 64) for width in widths]
    config["cross_attention_dim"] = _side(shapes, _first(shapes, r"attn2\.to_k\.weight$"), 1)
    if config.get("addition_embed_type"):
        config["projection_class_embeddings_input_dim"] = _side(shapes, "label_emb.0.0.weight", 1)
    if "time_embed.cond_proj.weight" in shapes:
        config["time_cond_proj_dim"] = _side(shapes, "time_embed.cond_proj.weight", 1)
    return config


def vae_config(family: Family, header: Header) -> dict[str, Any]:
    """The family's autoencoder config with the widths of this file."""
    shapes = {key.removeprefix(VAE): info.shape for key, info in header.tensors.items() if key.startswith(VAE)}
    config = shipped(family, "vae/config.json")
    blocks = len(config["down_block_types"])
    config["block_out_channels"] = [
        _side(shapes, f"encoder.down.{block}.block.0.conv1.weight", 0) for block in range(blocks)
    ]
    config["latent_channels"] = _side(shapes, "decoder.conv_in.weight", 1)
    return config


def text_config(family: Family, component: str, header: Header) -> dict[str, Any]:
    """The family's text encoder config with the widths of this file."""
    prefix = PREFIXES[family][component]
    shapes = {key.removeprefix(prefix): info.shape for key, info in header.tensors.items() if key.startswith(prefix)}
    config = shipped(family, f"{component}/config.json")
    words = _first(shapes, r"token_embedding\.weight$")
    width = _side(shapes, words, 1)
    config["vocab_size"], config["hidden_size"] = _side(shapes, words, 0), width
    config["intermediate_size"] = _side(shapes, _first(shapes, r"\.0\.mlp\.(?:fc1|c_fc)\.weight$"), 0)
    config["num_attention_heads"] = max(1, width // 64)
    if config["architectures"] == ["CLIPTextModelWithProjection"]:
        config["projection_dim"] = _side(shapes, "text_projection", 1)
    return config


def _by_text_encoder(keys: Mapping[str, Any]) -> Family | None:
    for family in (Family.SDXL, Family.SDXL_REFINER, Family.SD2, Family.SD1):
        prefixes = [prefix for part, prefix in PREFIXES[family].items() if part.startswith("text")]
        if all(any(key.startswith(prefix) for key in keys) for prefix in prefixes):
            break
    else:
        return None
    has_middle_attention = any(key.startswith(f"{UNET}middle_block.2.") for key in keys)
    return Family.SSD1B if family is Family.SDXL and not has_middle_attention else family


def _foreign(keys: Mapping[str, Any]) -> str:
    for pattern, what in _FOREIGN:
        if any(re.search(pattern, key) for key in keys):
            return f"it is {what}"
    return f"none of its {len(keys):,} tensors belongs to such a UNet"


def _first(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> str:
    """The first key that the pattern is found in; the pattern itself where there is none."""
    return next((key for key in shapes if re.search(pattern, key)), pattern)


def _side(shapes: Mapping[str, tuple[int, ...]], key: str, axis: int) -> int:
    shape = shapes.get(key, ())
    if len(shape) <= axis or shape[axis] < 1:
        raise CheckpointError(f"the file is incomplete: {key} is missing; download it again or give a whole checkpoint")
    return shape[axis]
