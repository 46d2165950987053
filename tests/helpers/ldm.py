"""From diffusers' and transformers' layer names to those of the original LDM and SGM checkpoints, one way only: the
inverse of what a loader of single files does, written apart from it so that each can convict the other.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def to_original(family: str, parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    """All parts of a checkpoint under the prefixes that its family uses, with the oddments of published files."""
    tensors = {f"model.diffusion_model.{k}": v for k, v in unet(parts["unet"]).items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in vae(parts["vae"]).items()}
    if family == "sd1":
        tensors |= _clip("cond_stage_model.transformer.", parts["text_encoder"])
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    elif family == "sd2":
        tensors |= _open_clip("cond_stage_model.model.", parts["text_encoder"], spare_layer=True)
    elif family == "sdxl-refiner":
        tensors |= _open_clip("conditioner.embedders.0.model.", parts["text_encoder_2"])
    else:
        tensors |= _clip("conditioner.embedders.0.transformer.", parts["text_encoder"])
        tensors |= _open_clip("conditioner.embedders.1.model.", parts["text_encoder_2"])
    tensors["alphas_cumprod"] = torch.linspace(0.99, 0.01, 1000)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def unet(module: nn.Module) -> dict[str, Tensor]:
    """input_blocks, middle_block, output_blocks; two layers a block on the way down, three on the way up."""
    state = module.state_dict()
    return {_unet_name(name, state): tensor for name, tensor in state.items()}


def _unet_name(name: str, state: dict[str, Tensor]) -> str:
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(ours + "."):
            return name.replace(ours, theirs, 1)
    if found := re.match(r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        block, kind, layer, rest = found.groups()
        number = 1 + 3 * int(block) + int(layer)
        return f"input_blocks.{number}.{_slot(kind, rest)}"
    if found := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{3 + 3 * int(found[1])}.0.op.{found[2]}"
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, layer, rest = found.groups()
        return f"middle_block.{2 * int(layer) + (kind == 'attentions')}.{_slot(kind, rest)[2:]}"
    if found := re.match(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        block, kind, layer, rest = found.groups()
        return f"output_blocks.{3 * int(block) + int(layer)}.{_slot(kind, rest)}"
    found = re.match(r"up_blocks\.(\d)\.upsamplers\.0\.conv\.(.*)", name)
    assert found, name
    place = 2 if any(key.startswith(f"up_blocks.{found[1]}.attentions") for key in state) else 1
    return f"output_blocks.{3 * int(found[1]) + 2}.{place}.conv.{found[2]}"


def _slot(kind: str, rest: str) -> str:
    if kind == "attentions":
        return f"1.{rest}"
    layer, _, parameter = rest.rpartition(".")
    return f"0.{_RESNET[layer]}.{parameter}"


def vae(module: nn.Module) -> dict[str, Tensor]:
    """encoder.down, mid, decoder.up counted from the finest; attention as 1x1 convolutions."""
    tensors: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0." in new:
            new = new.replace("mid_block.attentions.0.", "mid.attn_1.")
            for ours, theirs in _VAE_ATTENTION.items():
                new = new.replace(f".{ours}.", f".{theirs}.")
        tensors[new] = value[:, :, None, None] if ".mid.attn_1." in new and value.ndim == 2 else value
    return tensors


def _clip(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}


def _open_clip(prefix: str, module: nn.Module, *, spare_layer: bool = False) -> dict[str, Tensor]:
    """OpenCLIP's names; `spare_layer` adds the last layer, which SD 2 never uses and diffusers drops."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in module.state_dict().items()}
    width = state["embeddings.token_embedding.weight"].shape[1]
    tensors = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T if "text_projection.weight" in state else torch.eye(width),
        "logit_scale": torch.tensor(4.6),
    }
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers."))
    for layer in range(layers):
        old, new = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            tensors[f"{new}attn.in_proj_{kind}"] = torch.cat([state[f"{old}self_attn.{x}_proj.{kind}"] for x in "qkv"])
            for ours, theirs in _OPEN_CLIP.items():
                tensors[f"{new}{theirs}.{kind}"] = state[f"{old}{ours}.{kind}"]
    if spare_layer:
        last = f"transformer.resblocks.{layers - 1}."
        spare = {
            k.replace(last, f"transformer.resblocks.{layers}."): v for k, v in tensors.items() if k.startswith(last)
        }
        tensors |= {key: torch.randn_like(tensor) for key, tensor in spare.items()}
    return {prefix + key: tensor for key, tensor in tensors.items()}
