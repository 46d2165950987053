"""Written and read back: the same bits; and read by diffusers and PEFT: the same pictures."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_kit import SD1, SDXL, distance, factors, in_kohya, merge_into, predict, tiny_clip, tiny_unet, write
from safetensors.torch import load_file

from laur.core.errors import AdapterError
from laur.optimize.base import Recommendation
from laur.optimize.deltas import Dense, DoRA, Kronecker, LowRank, Scale
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes
from laur.optimize.write import exact_alpha, save, tensors


@pytest.fixture(scope="module")
def unet():
    return tiny_unet(SD1)


@pytest.fixture(scope="module")
def layers(unet):
    return {**layer_shapes(unet, "unet"), **layer_shapes(tiny_clip(), "text_encoder")}


def same(a, b) -> bool:
    """Of one kind, with the same numbers to the last bit."""
    if type(a) is not type(b):
        return False
    for name in a.__slots__ if hasattr(a, "__slots__") else ():
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, torch.Tensor):
            if x.dtype != y.dtype or not torch.equal(x, y):
                return False
        elif not (same(x, y) if isinstance(x, LowRank | Kronecker | Dense) else x == y):
            return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_a_round_trip_is_exact(format, dtype, tmp_path, unet, layers):
    """Ranks and alphas that differ by layer, linear and convolutional, UNet and text encoder."""
    found = {**factors(unet, "unet"), **factors(tiny_clip(), "text_encoder")}
    state = {k: v if "alpha" in k else v.to(dtype) for k, v in in_kohya(found).items()}
    first = LoraFile(write(tmp_path / "a.safetensors", state)).deltas(layers)
    save(tmp_path / "b.safetensors", first, format=format)
    adapter = LoraFile(tmp_path / "b.safetensors")
    assert adapter.info.layout == format and adapter.coverage(layers).left == {}
    again = adapter.deltas(layers)
    assert again.keys() == first.keys() and len(first) == len(found)
    assert all(same(again[name], first[name]) for name in first)
    assert len({delta.scale for delta in first.values()}) > 3
    save(tmp_path / "c.safetensors", again, format=format)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


OTHERS = {
    "LoCon's middle": LowRank(torch.randn(32, 2, 1, 1), torch.randn(2, 4, 1, 1), 0.3, torch.randn(2, 2, 3, 3)),
    "Kronecker": Kronecker(torch.randn(4, 2), torch.randn(8, 2, 3, 3)),
    "Kronecker with a scale": Kronecker(torch.randn(4, 2), torch.randn(8, 2, 3, 3), 0.37),
    "whole": Dense(torch.randn(32, 4, 3, 3)),
    "IA3 of outputs": Scale(torch.rand(32) * 3),
    "IA3 of inputs": Scale(torch.rand(4) * 1e-3, axis=1),
    "DoRA": DoRA(LowRank(torch.randn(32, 2, 1, 1), torch.randn(2, 4, 3, 3), 0.5), torch.rand(32), 0, "lycoris"),
    "DoRA of inputs": DoRA(Dense(torch.randn(32, 4, 3, 3)), torch.rand(4), 1, "lycoris"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_come_back_from_kohyas_format(kind, tmp_path, layers):
    deltas = {"unet.conv_in": OTHERS[kind]}
    if not kind.startswith(("IA3", "DoRA")):
        deltas["unet.conv_in.bias"] = Dense(torch.randn(32))
    save(tmp_path / "a.safetensors", deltas, format="kohya")
    again = LoraFile(tmp_path / "a.safetensors").deltas(layers)
    assert again.keys() == deltas.keys()
    assert all(same(again[name], deltas[name]) for name in deltas)


def test_dora_and_the_bias_of_a_factor_come_back_from_diffusers_format(tmp_path, layers):
    low = LowRank(torch.randn(32, 2, 1, 1), torch.randn(2, 4, 3, 3), 1.5)
    deltas = {"unet.conv_in": DoRA(low, torch.rand(32)), "unet.conv_in.bias": Dense(torch.randn(32), 1.5)}
    save(tmp_path / "a.safetensors", deltas, format="diffusers")
    again = LoraFile(tmp_path / "a.safetensors").deltas(layers)
    assert all(same(again[name], deltas[name]) for name in deltas)
    assert load_file(tmp_path / "a.safetensors")["unet.conv_in.lora_magnitude_vector"].shape == (1, 32, 1, 1)


@pytest.mark.parametrize("weighting", ["peft", "lycoris"])
@pytest.mark.parametrize("there", ["kohya", "diffusers"])
def test_the_weight_of_a_dora_means_the_same_in_any_layout(there, weighting, tmp_path, layers):
    low = LowRank(torch.randn(32, 2, 1, 1), torch.randn(2, 4, 3, 3), 0.5)
    deltas = {"unet.conv_in": DoRA(low, torch.rand(32) + 1, weighting=weighting)}
    base = torch.randn(32, 4, 3, 3)
    wanted = deltas["unet.conv_in"].apply(base, 0.4)
    other = DoRA(low, deltas["unet.conv_in"].magnitude, weighting="peft" if weighting == "lycoris" else "lycoris")
    assert distance(other.apply(base, 0.4), wanted) > 0.01
    back = "diffusers" if there == "kohya" else "kohya"
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save(first, deltas, format=there)
    adapter = LoraFile(first)
    found = adapter.deltas(layers)
    assert torch.equal(found["unet.conv_in"].apply(base, 0.4), wanted)
    save(second, found, format=back, metadata=adapter.metadata)
    again = LoraFile(second)
    assert torch.equal(again.deltas(layers)["unet.conv_in"].apply(base, 0.4), wanted)
    own = {"kohya": "lycoris", "diffusers": "peft"}
    for file, layout in ((adapter, there), (again, back)):
        assert file.metadata.get("laur.dora") == (None if own[layout] == weighting else weighting)


def test_two_kinds_of_dora_are_not_written_into_one_file(tmp_path):
    low = LowRank(torch.ones(32, 2, 1, 1), torch.ones(2, 4, 3, 3))
    both = {"unet.a": DoRA(low, torch.ones(32)), "unet.b": DoRA(low, torch.ones(32), weighting="lycoris")}
    with pytest.raises(AdapterError, match="write two"):
        tensors(both, format="kohya")
    state = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(32, 2, 1, 1),
    }
    with pytest.raises(AdapterError, match="must be peft or lycoris"):
        LoraFile(write(tmp_path / "x.safetensors", state, {"laur.dora": "mine"}))


@pytest.mark.parametrize("kind", [kind for kind in OTHERS if kind != "DoRA"])
def test_what_diffusers_has_no_words_for_is_refused(kind, tmp_path):
    with pytest.raises(AdapterError, match=r"unet\.conv_in (has a .* no words|.*has them of inputs)|has no words"):
        save(tmp_path / "a.safetensors", {"unet.conv_in": OTHERS[kind]}, format="diffusers")
    assert not list(tmp_path.iterdir())


def test_nothing_and_unknown_formats_are_refused():
    with pytest.raises(AdapterError, match="changes nothing"):
        tensors({}, format="kohya")
    with pytest.raises(AdapterError, match=r"no adapter format 'onnx'; there are diffusers and kohya"):
        tensors({"unet.conv_in": OTHERS["whole"]}, format="onnx")
    with pytest.raises(AdapterError, match="fp16 cannot hold"):
        tensors({"unet.x": Dense(torch.full((2, 2), 1e6))}, format="kohya", precision="fp16")


@settings(deadline=None)
@given(st.floats(1e-6, 1e3), st.integers(1, 300))
def test_an_alpha_gives_back_its_scale(scale, rank):
    assert float(exact_alpha(scale, rank)) / rank == pytest.approx(scale, rel=2**-52, abs=0)


@settings(deadline=None)
@given(st.integers(1, 512), st.integers(1, 300), st.integers(1, 20))
def test_the_alpha_of_a_file_comes_back_in_its_own_precision(alpha, rank, tenth):
    value = float(torch.tensor(alpha * tenth / 10, dtype=torch.float32))
    again = exact_alpha(value / rank, rank)
    assert again.dtype == torch.float32 and float(again) == value


def test_a_scale_of_0_stays_one():
    alpha = float(exact_alpha(0.0, 4))
    assert alpha != 0 and alpha / 4 == 0 and not math.isnan(alpha)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["diffusers", "kohya"])
@pytest.mark.parametrize(("kind", "config"), [(StableDiffusionPipeline, SD1), (StableDiffusionXLPipeline, SDXL)])
def test_diffusers_reads_what_is_written(kind, config, format, tmp_path):
    """All scales alike in kohya's format, as diffusers takes the most frequent alpha for attention layers."""
    unet = tiny_unet(config)
    found = factors(unet, "unet", alpha=3.0 if format == "kohya" else None)
    if format == "kohya":  # diffusers finds no label_emb or add_embedding under kohya's names
        found = {name: f for name, f in found.items() if "add_embedding" not in name}
    deltas = {name: LowRank(up, down, alpha / down.shape[0]) for name, (up, down, alpha) in found.items()}
    path = tmp_path / "a.safetensors"
    model = [*layer_shapes(unet, "unet"), *(["text_encoder_2.x"] if config is SDXL else [])]
    save(path, deltas, format=format, model_layers=model)
    if config is SDXL and format == "kohya":
        assert any(key.startswith("lora_unet_input_blocks_") for key in load_file(path))
    theirs, ours = copy.deepcopy(unet), copy.deepcopy(unet)
    state, alphas, *rest = kind.lora_state_dict(str(path), unet_config=unet.config, return_lora_metadata=True)
    metadata = rest[0] if rest else None
    kind.load_lora_into_unet(state, network_alphas=alphas, unet=theirs, adapter_name="theirs", metadata=metadata)
    merge_into(ours, "unet", deltas)
    assert distance(predict(ours), predict(unet)) > 1e-3
    assert distance(predict(ours), predict(theirs)) <= 1e-5


def test_the_recommendation_and_the_metadata_are_carried_along(tmp_path, layers):
    said = Recommendation(sampler="tcd", steps=2, timesteps=(999, 499), accelerates=True)
    low = {"unet.conv_in": LowRank(torch.ones(32, 1, 1, 1), torch.ones(1, 4, 3, 3), 0.5)}
    save(tmp_path / "x.safetensors", low, format="diffusers", recommends=said, metadata={"modelspec.author": "me"})
    adapter = LoraFile(tmp_path / "x.safetensors")
    assert adapter.recommends == said and adapter.metadata["modelspec.author"] == "me"
    own = json.loads(adapter.metadata["lora_adapter_metadata"])
    assert own["unet.r"] == 1 and own["unet.lora_alpha"] == 0.5


def test_a_precision_for_all(tmp_path, layers):
    low = {"unet.conv_in": LowRank(torch.randn(32, 3, 1, 1), torch.randn(3, 4, 3, 3), 0.3)}
    save(tmp_path / "x.safetensors", low, format="kohya", precision="bf16")
    found = LoraFile(tmp_path / "x.safetensors").deltas(layers)["unet.conv_in"]
    assert torch.equal(found.up, low["unet.conv_in"].up.bfloat16()) and found.scale == 0.3


@pytest.mark.filterwarnings("ignore")
def test_diffusers_reads_a_written_dora(tmp_path):
    unet = tiny_unet(SD1)
    found = factors(unet, "unet", only="attn2", alpha=3.0)
    deltas = {}
    for name, (up, down, alpha) in found.items():
        length = unet.get_submodule(name.removeprefix("unet.")).weight.norm(dim=1)
        deltas[name] = DoRA(LowRank(up, down, alpha / down.shape[0]), length * 1.3)
    path = tmp_path / "a.safetensors"
    save(path, deltas, format="diffusers")
    theirs, ours = copy.deepcopy(unet), copy.deepcopy(unet)
    state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(str(path), return_lora_metadata=True)
    StableDiffusionPipeline.load_lora_into_unet(
        state, network_alphas=alphas, unet=theirs, adapter_name="theirs", metadata=metadata
    )
    merge_into(ours, "unet", LoraFile(path).deltas(layer_shapes(ours, "unet")))
    assert distance(predict(ours), predict(unet)) > 1e-2
    assert distance(predict(ours), predict(theirs)) <= 1e-5
