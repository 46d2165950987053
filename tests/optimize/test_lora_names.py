"""Names of the real architectures, at full size and without weights, against names as files in the wild have them."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel

from laur.optimize.merge import layer_shapes
from laur.optimize.names import Key, LayerIndex, layout, other_kind, parse
from laur.optimize.sgm import sgm_names

SD1 = {"cross_attention_dim": 768}
XL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@cache
def layers(family: str) -> tuple[str, ...]:
    with torch.device("meta"):
        return tuple(layer_shapes(UNet2DConditionModel(**(SD1 if family == "sd1" else XL)), "unet"))


IN_THE_WILD = {
    "sd1": {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight": (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
        ),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj.lora_up.weight": (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"
        ),
        "lora_unet_mid_block_resnets_1_time_emb_proj.alpha": "unet.mid_block.resnets.1.time_emb_proj",
        "lora_unet_up_blocks_3_resnets_2_conv_shortcut.lora_mid.weight": "unet.up_blocks.3.resnets.2.conv_shortcut",
        "lora_unet_output_blocks_2_1_conv.alpha": "unet.up_blocks.0.upsamplers.0.conv",
        "lora_unet_output_blocks_5_2_conv.alpha": "unet.up_blocks.1.upsamplers.0.conv",
        "lora_unet_input_blocks_9_0_op.alpha": "unet.down_blocks.2.downsamplers.0.conv",
        "lora_unet_input_blocks_11_0_in_layers_2.alpha": "unet.down_blocks.3.resnets.1.conv1",
        "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.processor.to_out_lora.up.weight": (
            "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0"
        ),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
        ),
        "base_model.model.conv_in.lora_A.weight": "unet.conv_in",
        "unet.conv_in.lora_A.default.weight": "unet.conv_in",
    },
    "sdxl": {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k.lora_down.weight": (
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"
        ),
        "lora_unet_input_blocks_8_1_proj_in.alpha": "unet.down_blocks.2.attentions.1.proj_in",
        "lora_unet_input_blocks_1_0_in_layers_2.alpha": "unet.down_blocks.0.resnets.0.conv1",
        "lora_unet_input_blocks_3_0_op.alpha": "unet.down_blocks.0.downsamplers.0.conv",
        "lora_unet_middle_block_0_emb_layers_1.alpha": "unet.mid_block.resnets.0.time_emb_proj",
        "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2.alpha": (
            "unet.mid_block.attentions.0.transformer_blocks.9.ff.net.2"
        ),
        "lora_unet_middle_block_2_out_layers_3.alpha": "unet.mid_block.resnets.1.conv2",
        "lora_unet_output_blocks_2_2_conv.alpha": "unet.up_blocks.0.upsamplers.0.conv",
        "lora_unet_output_blocks_5_1_transformer_blocks_1_attn2_to_v.alpha": (
            "unet.up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_v"
        ),
        "lora_unet_output_blocks_8_0_skip_connection.alpha": "unet.up_blocks.2.resnets.2.conv_shortcut",
        "lora_unet_input_blocks_0_0.alpha": "unet.conv_in",
        "lora_unet_out_2.alpha": "unet.conv_out",
        "lora_unet_time_embed_2.alpha": "unet.time_embedding.linear_2",
        "lora_unet_label_emb_0_0.alpha": "unet.add_embedding.linear_1",
        "lora_unet_add_embedding_linear_1.alpha": "unet.add_embedding.linear_1",
        "diffusion_model.input_blocks.4.1.proj_out.lora_up.weight": "unet.down_blocks.1.attentions.0.proj_out",
    },
}


@pytest.mark.parametrize(("family", "key"), [(family, key) for family, keys in IN_THE_WILD.items() for key in keys])
def test_keys_in_the_wild_find_their_layer(family, key):
    parsed = parse(key)
    assert parsed is not None
    found = LayerIndex(layers(family)).find(parsed)
    assert found is not None and found[0] == IN_THE_WILD[family][key]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_no_two_layers_share_a_name(family):
    """Underscored or original, every layer has its own name, and comes back to itself."""
    names = [name.removeprefix("unet.") for name in layers(family)]
    originals = sgm_names(names)
    assert len(originals) == len(names) and set(originals.values()) == set(names)
    flat = [name.replace(".", "_") for name in [*names, *originals] if name not in {*names} & {*originals}]
    assert len(set(flat)) == len(flat)
    index = LayerIndex(layers(family))
    for name in names:
        assert index.find(Key("unet", name.replace(".", "_"), "up")) == (f"unet.{name}", True)


@pytest.mark.parametrize("real", ["text_model.encoder.layers.0.self_attn.", "encoder.layers.0.self_attn."])
@pytest.mark.parametrize("prefix", ["text_model_", ""])
def test_text_encoders_are_found_with_and_without_their_inner_name(real, prefix):
    index = LayerIndex([f"text_encoder.{real}{p}" for p in ("q_proj", "k_proj", "v_proj", "out_proj")])
    for theirs, ours in (("q_proj", "q_proj"), ("to_q", "q_proj"), ("to_out_0", "out_proj"), ("out_proj", "out_proj")):
        found = index.find(Key("text_encoder", f"{prefix}encoder_layers_0_self_attn_{theirs}", "up"))
        assert found is not None and found[0] == f"text_encoder.{real}{ours}"
    assert index.find(Key("text_encoder", "encoder_layers_1_self_attn_q_proj", "up")) is None


def test_components():
    keys = {
        "lora_te_x.alpha": "text_encoder",
        "lora_te1_x.alpha": "text_encoder",
        "lora_te2_x.alpha": "text_encoder_2",
        "text_encoder.x.lora_A.weight": "text_encoder",
        "text_encoder_2.x.lora_linear_layer.up.weight": "text_encoder_2",
        "unet.x.lora.down.weight": "unet",
        "x.lora_B.weight": "unet",
    }
    for key, component in keys.items():
        parsed = parse(key)
        assert parsed is not None and (parsed.component, parsed.layer) == (component, "x")
    assert parse("unet.conv_in.weight") is None


def test_layouts():
    assert layout(["lora_unet_x.alpha"]) == "kohya"
    assert layout(["base_model.model.x.lora_A.weight"]) == "PEFT"
    assert layout(["unet.x.lora_A.weight"]) == "diffusers"
    assert other_kind("unet.x.lora_A.weight") is None
