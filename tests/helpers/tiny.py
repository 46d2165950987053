"""Models of the exact architectures at reduced width, with random weights: every block and layer of the real ones is
there, a few channels wide. They draw noise, but load, sample and take adapters as their big sisters do.

    tiny_folder("sdxl", tmp_path / "xl")                  a diffusers folder
    tiny_single_file("sd2", tmp_path / "two.safetensors")   the same weights in the original LDM / SGM layout

Families: sd1, sd2, sdxl, sdxl-refiner, ssd-1b.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import laur.models
from helpers.ldm import to_original

FAMILIES = ("sd1", "sd2", "sdxl", "sdxl-refiner", "ssd-1b")
CONFIGS = Path(laur.models.__file__).parent / "configs"
"""What the wheel ships; the widths below are all that is changed."""

_UNET: dict[str, dict[str, Any]] = {
    "sd1": {"block_out_channels": [32, 64, 96, 96], "cross_attention_dim": 64},
    "sd2": {
        "block_out_channels": [64, 64, 128, 128],
        "attention_head_dim": [1, 1, 2, 2],
        "cross_attention_dim": 128,
    },
    "sdxl": {
        "block_out_channels": [64, 64, 128],
        "attention_head_dim": [1, 1, 2],
        "cross_attention_dim": 192,
        "projection_class_embeddings_input_dim": 128 + 6 * 256,
    },
    "sdxl-refiner": {
        "block_out_channels": [64, 64, 128, 128],
        "attention_head_dim": [1, 1, 2, 2],
        "cross_attention_dim": 128,
        "projection_class_embeddings_input_dim": 128 + 5 * 256,
    },
}
_UNET["ssd-1b"] = _UNET["sdxl"]
_TEXT = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1, "projection_dim": 64}
_WIDE_TEXT = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2, "projection_dim": 128}
_NATIVE_PIXELS = 64


def tiny_configs(family: str) -> dict[str, dict[str, Any]]:
    """By file below the folder, `unet/config.json` say: the shipped configs with the widths reduced."""
    folder = CONFIGS / family
    files = sorted(folder.rglob("*.json"))
    configs = {file.relative_to(folder).as_posix(): json.loads(file.read_text("utf-8")) for file in files}
    configs["unet/config.json"] |= _UNET[family] | {"sample_size": _NATIVE_PIXELS // 8}
    configs["vae/config.json"] |= {"block_out_channels": [32, 32, 64, 64], "sample_size": _NATIVE_PIXELS}
    for part, widths in (("text_encoder", _WIDE_TEXT if family == "sd2" else _TEXT), ("text_encoder_2", _WIDE_TEXT)):
        if f"{part}/config.json" in configs:
            configs[f"{part}/config.json"] |= widths
    return configs


def tiny_parts(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, nn.Module]:
    """unet, vae and the text encoders by component name; every parameter is random, norms and biases too."""
    configs = tiny_configs(family)
    generator = np.random.default_rng(seed)
    parts = {
        "unet": _filled(lambda: UNet2DConditionModel.from_config(configs["unet/config.json"]), dtype, generator),
        "vae": _filled(lambda: AutoencoderKL.from_config(configs["vae/config.json"]), dtype, generator),
    }
    for name, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        if f"{name}/config.json" in configs:
            config = CLIPTextConfig(**configs[f"{name}/config.json"])
            parts[name] = _filled(partial(kind, config), dtype, generator)
    return parts


def _filled(make: Callable[[], nn.Module], dtype: torch.dtype, generator: np.random.Generator) -> nn.Module:
    """Drawn in NumPy: a thousand small tensors in torch would mean a thousand meetings of its threads."""
    with init_empty_weights():
        module = make()
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        values = generator.standard_normal(tuple(parameter.shape), dtype=np.float32)
        if parameter.ndim > 1:
            values *= 0.5 / np.sqrt(np.prod(parameter.shape[1:]))
        else:
            values = values * 0.02 + ("norm" in name and name.endswith("weight"))
        if dtype is torch.float16:
            values = values.astype(np.float16)
        state[name] = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def tiny_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's own vocabulary, as shipped."""
    return CLIPTokenizer.from_pretrained(CONFIGS / "clip", model_max_length=77, pad_token=pad_token)


def tiny_folder(
    family: str,
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    prediction: str | None = None,
    seed: int = 0,
    parts: dict[str, nn.Module] | None = None,
    **scheduler: Any,
) -> Path:
    """A diffusers folder as those on hubs are; `scheduler` changes values of its scheduler_config.json.

    `parts` are written in place of new ones.
    """
    configs = tiny_configs(family)
    configs["scheduler/scheduler_config.json"] |= {"prediction_type": prediction or "epsilon", **scheduler}
    for file, config in configs.items():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(json.dumps(config, indent=2), "utf-8")
    for name, part in (parts or tiny_parts(family, dtype=dtype, seed=seed)).items():
        is_text = name.startswith("text")
        stem = "model" if is_text else "diffusion_pytorch_model"
        file = f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"
        save_file(published_names(part) if is_text else part.state_dict(), path / name / file, {"format": "pt"})
    for name in ("tokenizer", "tokenizer_2"):
        if f"{name}/tokenizer_config.json" in configs:
            for file in ("vocab.json", "merges.txt"):
                (path / name / file).unlink(missing_ok=True)
                (path / name / file).symlink_to(CONFIGS / "clip" / file)
    return path


def published_names(text_encoder: nn.Module) -> dict[str, Tensor]:
    """A CLIP text encoder's weights as files have them, whatever the version of transformers calls them."""
    bare = ("text_model.", "text_projection.")
    state = text_encoder.state_dict()
    return {name if name.startswith(bare) else f"text_model.{name}": tensor for name, tensor in state.items()}


def tiny_single_file(
    family: str,
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    metadata: dict[str, str] | None = None,
    extra: dict[str, Tensor] | None = None,
    seed: int = 0,
    parts: dict[str, nn.Module] | None = None,
) -> Path:
    """The weights of `tiny_parts`, or of `parts`, as one file, the way published checkpoints lay them out."""
    parts = parts or tiny_parts(family, dtype=dtype, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(to_original(family, parts) | (extra or {}), path, metadata)
    return path
