"""Real architectures at full size and without weights: every layer has its name in each layout, and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from laur.core.checkpoint import Family
from laur.core.errors import MismatchError
from laur.optimize.deltas import LowRank
from laur.optimize.lora_file import LoraFile
from laur.optimize.names import LayerIndex, parse
from laur.optimize.write import save, tensors
from laur.pipeline.architectures import SHIPPED, layers_for, layers_of


def one_of(layers: dict, name: str, value: float = 1.0) -> LowRank:
    out, inner, *kernel = layers[name].weight
    return LowRank(torch.full((out, 1, *(1 for _ in kernel)), value), torch.full((1, inner, *kernel), value))


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
@pytest.mark.parametrize("family", SHIPPED)
def test_every_layer_is_found_again_under_its_written_name(family: Family, format: str) -> None:
    layers = {name: shape for name, shape in layers_of(family).items() if shape.weight[1] > 1}
    state, _ = tensors({name: one_of(layers, name) for name in layers}, format=format, model_layers=layers_of(family))
    index = LayerIndex(layers_of(family))
    found: dict[str, set[str]] = {}
    for key in state:
        parsed = parse(key)
        assert parsed is not None, key
        hit = index.find(parsed)
        assert hit is not None, key
        found.setdefault(hit[0], set()).add(parsed.role)
    roles = {"up", "down"} if format == "diffusers" else {"up", "down", "alpha"}
    assert found == dict.fromkeys(layers, roles)
    if format == "kohya" and family.is_xl:
        assert not any(key.startswith(("lora_unet_down_blocks", "lora_unet_up_blocks")) for key in state)


@pytest.mark.parametrize("family", [Family.SD1, Family.SD2, Family.SDXL, Family.SSD1B])
def test_a_file_is_known_by_its_layers(family: Family, tmp_path: Path) -> None:
    layers = layers_of(family)
    names = [name for name in layers if name.endswith("attn2.to_k")]
    save(tmp_path / "a.safetensors", {name: one_of(layers, name) for name in names}, format="diffusers")
    found, given = layers_for(LoraFile(tmp_path / "a.safetensors"))
    assert found == family.value and given == layers


def test_a_few_layers_of_sdxl_are_not_taken_for_ssd1b(tmp_path: Path) -> None:
    names = [name for name in layers_of(Family.SSD1B) if name.endswith("attn2.to_k")][:5]
    low = {name: one_of(layers_of(Family.SDXL), name) for name in names}
    save(tmp_path / "a.safetensors", low, format="diffusers")
    assert layers_for(LoraFile(tmp_path / "a.safetensors"))[0] == "sdxl"


def test_the_embedded_models_adapter_is_known_too() -> None:
    from laur.optimize.catalogue import find

    found, layers = layers_for(find("lcm-lora-mini"))
    assert found == "mini" and "unet.conv_in" in layers


def test_what_fits_nothing_is_one_line(tmp_path: Path) -> None:
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    state = {f"{key}.lora_down.weight": torch.ones(2, 768), f"{key}.lora_up.weight": torch.ones(99, 2)}
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(MismatchError, match=r"320x768 in this checkpoint, .* made for 99x768.*--model") as caught:
        layers_for(LoraFile(tmp_path / "odd.safetensors"))
    assert "\n" not in str(caught.value)
