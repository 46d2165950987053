"""Merged weights draw what diffusers and PEFT draw with the same LoRA unmerged."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from lora_kit import (
    SD1,
    SDXL,
    distance,
    factors,
    in_diffusers,
    in_kohya,
    merge_into,
    predict,
    tiny_clip,
    tiny_unet,
    write,
)
from safetensors.torch import load_file

from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes
from laur.optimize.sgm import sgm_names

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers and peft about themselves


def by_diffusers(kind, unet, path) -> torch.Tensor:
    """The prediction with the file loaded by diffusers and left unmerged."""
    unet = copy.deepcopy(unet)
    state, alphas = kind.lora_state_dict(load_file(path), unet_config=unet.config)
    kind.load_lora_into_unet(state, network_alphas=alphas, unet=unet, adapter_name="theirs")
    return predict(unet)


def by_us(unet, path) -> torch.Tensor:
    unet = copy.deepcopy(unet)
    adapter = LoraFile(path)
    deltas = adapter.deltas(layer_shapes(unet, "unet"))
    assert adapter.coverage(layer_shapes(unet, "unet")).left == {}
    merge_into(unet, "unet", deltas)
    return predict(unet)


def sgm(unet) -> dict[str, str]:
    """Canonical to the original's name."""
    names = [name.removeprefix("unet.") for name in layer_shapes(unet, "unet")]
    return {f"unet.{name}": f"unet.{original}" for original, name in sgm_names(names).items()}


CASES = {
    "sd1 diffusers": (StableDiffusionPipeline, SD1, lambda unet, found: in_diffusers(found)),
    "sdxl diffusers": (StableDiffusionXLPipeline, SDXL, lambda unet, found: in_diffusers(found)),
    "sd1 diffusers, down and up": (
        StableDiffusionPipeline,
        SD1,
        lambda unet, found: in_diffusers(found, ("lora.down", "lora.up")),
    ),
    "sd1 kohya": (StableDiffusionPipeline, SD1, lambda unet, found: in_kohya(found)),
    # without the one module that diffusers does not find under these names
    "sdxl kohya, diffusers names": (
        StableDiffusionXLPipeline,
        SDXL,
        lambda unet, found: in_kohya({n: f for n, f in found.items() if "add_embedding" not in n}),
    ),
    "sdxl kohya, original names": (StableDiffusionXLPipeline, SDXL, lambda unet, found: in_kohya(found, sgm(unet))),
}


@pytest.mark.parametrize("case", CASES)
def test_unet_prediction_equals_diffusers(case, tmp_path):
    kind, config, layout = CASES[case]
    unet = tiny_unet(config)
    # one alpha for all: diffusers overlooks alphas of attention layers that differ from the most frequent one
    path = write(tmp_path / "a.safetensors", layout(unet, factors(unet, "unet", alpha=3.0)))
    theirs, ours = by_diffusers(kind, unet, path), by_us(unet, path)
    assert distance(theirs, predict(unet)) > 1e-2
    assert distance(ours, theirs) <= 1e-5


@pytest.mark.parametrize(("config", "middle"), [(SD1, False), (SD1, True), (SDXL, False)])
def test_every_alpha_counts(config, middle, tmp_path):
    """Against the definition, layer by layer: layer(x) + up(mid(down(x))) alpha / rank."""
    unet = tiny_unet(config)
    found = factors(unet, "unet")
    state = in_kohya(found)
    theirs = copy.deepcopy(unet)
    for name, (up, down, alpha) in found.items():
        layer = theirs.get_submodule(name.removeprefix("unet."))
        steps, rank = [(down, layer), (up, None)], down.shape[0]
        if middle and down.shape[2:] == (3, 3):
            narrow = down[:, :, :1, :1]
            mid = torch.randn(rank, rank, 3, 3, generator=torch.Generator().manual_seed(rank))
            key = "lora_unet_" + name.removeprefix("unet.").replace(".", "_")
            state[f"{key}.lora_mid.weight"], state[f"{key}.lora_down.weight"] = mid, narrow
            steps = [(narrow, None), (mid, layer), (up, None)]

        def hook(module, args, output, steps=steps, scale=alpha / rank):
            x = args[0]
            for weight, shape in steps:
                if weight.ndim == 2:
                    x = torch.nn.functional.linear(x, weight)
                else:
                    stride, padding = (shape.stride, shape.padding) if shape else (1, 0)
                    x = torch.nn.functional.conv2d(x, weight, stride=stride, padding=padding)
            return output + x * scale

        layer.register_forward_hook(hook)
    assert any("mid" in key for key in state) or not middle
    ours = by_us(unet, write(tmp_path / "a.safetensors", state))
    assert distance(ours, predict(theirs)) <= 1e-5


def test_first_diffusers_layout_equals_diffusers(tmp_path):
    """Attention processors, with to_out_lora for to_out.0."""
    unet = tiny_unet(SD1)
    found = {n: f for n, f in factors(unet, "unet").items() if "attn" in n and ".to_" in n}
    state = {}
    for name, tensor in in_diffusers(found, ("lora.down", "lora.up")).items():
        layer, _, rest = name.replace("to_out.0", "to_out").rpartition(".lora.")
        module, _, projection = layer.rpartition(".")
        state[f"{module}.processor.{projection}_lora.{rest}"] = tensor
    path = write(tmp_path / "a.safetensors", state)
    assert any("to_out_lora.down" in key for key in state)
    assert distance(by_us(unet, path), by_diffusers(StableDiffusionPipeline, unet, path)) <= 1e-5


@pytest.mark.parametrize("rslora", [False, True])
def test_alphas_in_the_metadata_equal_peft(tmp_path, rslora):
    """What PEFT trains and diffusers saves: settings in the file's metadata, ranks and alphas by pattern."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = tiny_unet(SD1)
    trained = copy.deepcopy(unet)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_out.0", "conv1"],
        rank_pattern={"attn2.to_q": 3},
        alpha_pattern={"attn1.to_q": 2, "up_blocks.1.resnets.0.conv1": 9},
        use_rslora=rslora,
    )
    trained.add_adapter(config, "x")
    draw = torch.Generator().manual_seed(9)
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.1
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(trained, adapter_name="x"),
        unet_lora_adapter_metadata=config.to_dict(),
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    assert distance(by_us(unet, path), predict(trained)) <= 1e-5


def test_pefts_own_folder_equals_peft(tmp_path):
    """adapter_model.safetensors with adapter_config.json beside it, found by its folder."""
    from peft import LoraConfig, get_peft_model

    from laur.optimize.catalogue import find

    unet = tiny_unet(SD1)
    trained = get_peft_model(
        copy.deepcopy(unet), LoraConfig(r=4, lora_alpha=2, target_modules=["to_k"], init_lora_weights=False)
    )
    trained.save_pretrained(tmp_path)
    adapter = find(str(tmp_path))
    ours = copy.deepcopy(unet)
    merge_into(ours, "unet", adapter.deltas(layer_shapes(ours, "unet")))
    assert distance(predict(ours), predict(trained.base_model.model)) <= 1e-5
    before = adapter.sha256
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 2', '"lora_alpha": 4'))
    assert find(str(tmp_path)).sha256 != before  # the settings are content too


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("layout", ["kohya", "diffusers", "linear_layer"])
def test_text_encoder_equals_diffusers(layout, projected, tmp_path):
    """With and without the "text_model." that versions of transformers put before the layers' names."""
    clip, prefix = tiny_clip(projected), "text_encoder_2" if projected else "text_encoder"
    found = {n: f for n, f in factors(clip, prefix, alpha=3.0).items() if "text_projection" not in n}
    named = {
        f"{prefix}.text_model.{n.removeprefix(f'{prefix}.').removeprefix('text_model.')}": f for n, f in found.items()
    }
    if layout == "kohya":
        state = in_kohya(named)
    elif layout == "diffusers":
        state = in_diffusers(named)
    else:
        state = in_diffusers(named, ("lora_linear_layer.down", "lora_linear_layer.up"))
    path = write(tmp_path / "a.safetensors", state)
    theirs, ours = copy.deepcopy(clip), copy.deepcopy(clip)
    loaded, alphas = StableDiffusionXLPipeline.lora_state_dict(load_file(path))
    StableDiffusionXLPipeline.load_lora_into_text_encoder(
        loaded, network_alphas=alphas, text_encoder=theirs, prefix=prefix, adapter_name="theirs"
    )
    deltas = LoraFile(path).deltas(layer_shapes(ours, prefix))
    assert set(deltas) == set(found)
    merge_into(ours, prefix, deltas)
    ids = torch.tensor([[1, 7, 9, 2]])
    with torch.no_grad():
        states = [model(ids)[1 if projected else 0] for model in (ours, theirs, clip)]
    assert distance(states[1], states[2]) > 1e-3
    assert distance(states[0], states[1]) <= 1e-5
