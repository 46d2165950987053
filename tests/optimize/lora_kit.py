"""Small models and random LoRA files in every layout, for the adapter tests."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

from laur.optimize.merge import layer_shapes, merged_state

SD1 = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
SDXL = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": 40,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
}


def tiny_unet(config: dict, seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(**config).eval().requires_grad_(False)


def tiny_clip(projected: bool = False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(1)
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=50,
        max_position_embeddings=8,
        projection_dim=16,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval().requires_grad_(False)


@torch.no_grad()
def predict(unet: UNet2DConditionModel) -> torch.Tensor:
    """One fixed pass, (2, 4, 8, 8)."""
    draw = torch.Generator().manual_seed(5)
    latent = torch.randn(2, 4, 8, 8, generator=draw)
    context = torch.randn(2, 5, unet.config.cross_attention_dim, generator=draw)
    added = None
    if unet.config.addition_embed_type:
        added = {"text_embeds": torch.randn(2, 16, generator=draw), "time_ids": torch.ones(2, 6) * 64}
    return unet(latent, torch.tensor([700.0, 20.0]), context, added_cond_kwargs=added).sample


def factors(module: nn.Module, prefix: str, *, rank: int = 4, only: str = "", alpha: float | None = None):
    """Random (up, down, alpha) by canonical name, ranks differing by layer, and alphas too unless one is given."""
    draw = torch.Generator().manual_seed(2)
    found = {}
    for number, (name, layer) in enumerate(sorted(layer_shapes(module, prefix).items())):
        if only not in name:
            continue
        r = rank + number % 3
        out, inner, *kernel = layer.weight
        up = torch.randn(out, r, *(1 for _ in kernel), generator=draw) * 0.1
        down = torch.randn(r, inner, *kernel, generator=draw) * 0.1
        found[name] = (up, down, float(1 + number % 4) if alpha is None else alpha)
    return found


def in_diffusers(found: dict, names: tuple[str, str] = ("lora_A", "lora_B")) -> dict[str, torch.Tensor]:
    """Alpha folded into the factors, as this layout has none of its own."""
    state = {}
    for name, (up, down, alpha) in found.items():
        state[f"{name}.{names[0]}.weight"] = down * (alpha / down.shape[0])
        state[f"{name}.{names[1]}.weight"] = up.clone()
    return state


def in_kohya(found: dict, rename: dict[str, str] | None = None, text: str = "lora_te_") -> dict[str, torch.Tensor]:
    """`rename`: canonical name to another name of the layer."""
    prefixes = {"unet": "lora_unet_", "text_encoder": text, "text_encoder_2": "lora_te2_"}
    state = {}
    for name, (up, down, alpha) in found.items():
        component, _, layer = (rename or {}).get(name, name).partition(".")
        key = prefixes[component] + layer.replace(".", "_")
        state[f"{key}.lora_down.weight"] = down.clone()
        state[f"{key}.lora_up.weight"] = up.clone()
        state[f"{key}.alpha"] = torch.tensor(alpha)
    return state


def write(path, state: dict, metadata: dict[str, str] | None = None):
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
    return path


def merge_into(module: nn.Module, prefix: str, deltas, weight: float = 1.0) -> None:
    """Load the merged weights into `module`."""
    base = {f"{prefix}.{key}": value for key, value in module.state_dict().items()}
    new = merged_state(base, [(deltas, weight)], torch.float32)
    result = module.load_state_dict({key.removeprefix(f"{prefix}."): value for key, value in new.items()}, strict=False)
    assert not result.unexpected_keys


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative L2."""
    return float((a - b).norm() / b.norm())
