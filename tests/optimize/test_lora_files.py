"""What is read, what is refused, and in which words."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from lora_kit import SD1, SDXL, factors, in_diffusers, in_kohya, tiny_clip, tiny_unet, write

from laur.core.checkpoint import Family
from laur.core.errors import AdapterError, MismatchError
from laur.optimize.layers import LayerShape
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes
from laur.pipeline.architectures import layers_of

TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SAFE = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'


@pytest.fixture(scope="module")
def unet():
    return tiny_unet(SD1)


@pytest.fixture(scope="module")
def layers(unet):
    return layer_shapes(unet, "unet")


@pytest.fixture
def state(unet):
    return in_kohya(factors(unet, "unet", only="attn2"))


def refused(path, layers, match: str, kind: type[AdapterError] = AdapterError) -> None:
    """One line, of that kind, and nothing comes back."""
    with pytest.raises(kind, match=match) as caught:
        LoraFile(path).deltas(layers)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


BYTES = {
    "empty": (b"", "is empty"),
    "random": (bytes(range(7, 256)) * 9, "is not a .safetensors file"),
    "huge header": ((10**12).to_bytes(8, "little") + b"{}" * 20, "is not a .safetensors file"),
    "zip pickle": (b"PK\x03\x04" + b"0" * 100, "is a pickle under another name, which can run code"),
    "plain pickle": (pickle.dumps({"a": 1}, protocol=2), "is a pickle under another name, which can run code"),
    "not JSON": ((20).to_bytes(8, "little") + b"{" + b"x" * 30, "its header is not JSON"),
    "not tensors": ((12).to_bytes(8, "little") + b'{"a": "b"}  ', "does not describe tensors"),
    "header cut": (
        (500).to_bytes(8, "little") + SAFE,
        "is truncated: it has 63 bytes and its header alone should have 500",
    ),
    "weights cut": (
        len(SAFE).to_bytes(8, "little") + SAFE + b"0" * 3,
        "is truncated: it has 66 bytes and should have 79",
    ),
    "too long": (len(SAFE).to_bytes(8, "little") + SAFE + b"0" * 30, "is damaged: it has 93 bytes and should have 79"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "is a web page"),
    "no weights": ((2).to_bytes(8, "little") + b"{}", "holds no weights"),
}


@pytest.mark.parametrize("what", BYTES)
def test_files_that_are_none(what, tmp_path, layers):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BYTES[what][0])
    refused(path, layers, BYTES[what][1])


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x4B50])
def test_a_header_whose_length_looks_like_a_pickle_is_read(length, tmp_path, layers, state):
    """80 02 is how a pickle of protocol 2 begins, and a header of 640 bytes."""
    path = write(tmp_path / "a.safetensors", {key: state[key] for key in list(state)[:3]})
    data = path.read_bytes()
    own = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + own].rstrip()
    assert len(header) <= length
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + data[8 + own :])
    assert len(LoraFile(path).deltas(layers)) == 1


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused_by_name_without_being_opened(suffix, tmp_path, layers):
    refused(tmp_path / f"style{suffix}", layers, "is a pickle file, which can run code when it is read; convert it")


def test_what_cannot_be_opened(tmp_path, layers):
    path = tmp_path / "folder.safetensors"
    path.mkdir()
    refused(path, layers, "cannot be read: ")


def test_a_truncated_lora_is_refused_at_any_length(tmp_path, layers, state):
    whole = write(tmp_path / "a.safetensors", state).read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(0, len(whole), len(whole) // 23):
        path.write_bytes(whole[:length])
        refused(path, layers, "truncated|is empty|not a .safetensors")


CHANGES = {
    "NaN": ({"lora_up.weight": torch.full((32, 4), float("nan"))}, "lora_up.weight holds values that are not finite"),
    "infinite bf16": (
        {"lora_down.weight": torch.full((4, 24), float("inf"), dtype=torch.bfloat16)},
        "lora_down.weight holds values that are not finite",
    ),
    "rank 0": ({"lora_up.weight": torch.zeros(32, 0), "lora_down.weight": torch.zeros(0, 24)}, "has rank 0"),
    "ranks differ": ({"lora_up.weight": torch.zeros(32, 3)}, r"the ranks of .* \(3\) and .* \(4\) differ"),
    "no up": ({"lora_up.weight": None}, "is incomplete: .* has no matching up weight"),
    "no down": ({"lora_down.weight": None}, "is incomplete: .* has no matching down weight"),
    "NaN alpha": ({"alpha": torch.tensor(float("nan"))}, "is damaged: the alpha of .* is no finite number"),
    "alpha per channel": ({"alpha": torch.ones(4)}, "alpha should be one number"),
    "integers": ({"lora_up.weight": torch.zeros(32, 4, dtype=torch.int8)}, "as I8; give a file in fp32"),
    "three dimensions": ({"lora_up.weight": torch.zeros(32, 4, 1)}, "has 3 dimensions"),
    "biases": ({"lora_up.bias": torch.zeros(32)}, "holds LoRA biases"),
    "something else": ({"weight": torch.zeros(32)}, "is no LoRA: it holds .*to_k.weight"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_damaged_layers(what, tmp_path, layers, state):
    changes, match = CHANGES[what]
    state[f"{TO_K}.lora_down.weight"] = torch.ones(4, 24)
    state[f"{TO_K}.lora_up.weight"] = torch.ones(32, 4)
    for role, value in changes.items():
        state.pop(f"{TO_K}.{role}", None)
        if value is not None:
            state[f"{TO_K}.{role}"] = value
    refused(write(tmp_path / "bad.safetensors", state), layers, match)


OTHER_KINDS = {
    "OFT rotations": "x.oft_blocks",
    "GLoRA weights": "x.a1.weight",
    "differences of norms": "x.w_norm",
    "a textual inversion": "emb_params",
    "LyCORIS weights of an unknown form": "x.lokr_t1",
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_refused_by_name(kind, tmp_path, layers, state):
    path = write(tmp_path / "other.safetensors", {**state, OTHER_KINDS[kind]: torch.ones(2, 2)})
    refused(path, layers, rf"holds {kind} \(1 keys\), which are not supported")


INCOMPLETE = {
    "x.hada_w1_a": "has no matching hada_w1_b weight",
    "x.lokr_w1": "has no matching lokr_w2_a weight",
    "x.lokr_w2_b": "has no matching lokr_w1_a weight",
    "x.dora_scale": "has no weights beside it",
    "unet.x.lora_magnitude_vector.weight": "has no weights beside it",
    "lora_unet_x.on_input": "should be one number",
}


@pytest.mark.parametrize("key", INCOMPLETE)
def test_a_part_alone_is_incomplete(key, tmp_path, layers, state):
    path = write(tmp_path / "other.safetensors", {**state, key: torch.ones(2, 2)})
    refused(path, layers, INCOMPLETE[key])


def test_a_whole_checkpoint_is_sent_where_it_belongs(tmp_path, layers):
    state = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 2)}
    refused(
        write(tmp_path / "sd.safetensors", state), layers, "is a whole checkpoint, not an adapter; use it as the model"
    )


@pytest.mark.parametrize("layout", [in_diffusers, in_kohya])
def test_another_architecture_is_named(layout, tmp_path, layers):
    xl = tiny_unet(SDXL)
    path = write(tmp_path / "xl.safetensors", layout(factors(xl, "unet")))
    refused(path, layers, r"is made for cross-attention width 40; this checkpoint has 24; choose", MismatchError)


def test_known_families_are_called_by_name(tmp_path, layers):
    state = {f"{TO_K}.lora_down.weight": torch.ones(2, 2048), f"{TO_K}.lora_up.weight": torch.ones(32, 2)}
    path = write(tmp_path / "xl.safetensors", state)
    refused(path, layers, r"is made for SDXL \(cross-attention width 2048\); this checkpoint has 24", MismatchError)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    refused(path, {name: LayerShape((320, 768))}, r"SDXL .*; this checkpoint has SD 1.x \(768\)", MismatchError)


def test_same_width_but_missing_layers(tmp_path, layers, state):
    state["lora_unet_mid_block_attentions_7_proj_in.lora_down.weight"] = torch.ones(4, 64)
    state["lora_unet_mid_block_attentions_7_proj_in.lora_up.weight"] = torch.ones(64, 4)
    path = write(tmp_path / "a.safetensors", state)
    match = r"1 of its \d+ layers are not in this checkpoint, first unet.mid_block_attentions_7_proj_in"
    refused(path, layers, match, MismatchError)
    flux = {
        "transformer.single_blocks.0.x.lora_A.weight": torch.ones(2, 3),
        "transformer.single_blocks.0.x.lora_B.weight": torch.ones(3, 2),
    }
    refused(
        write(tmp_path / "flux.safetensors", flux), layers, "made for another architecture: 1 of its 1", MismatchError
    )


def test_same_layers_but_another_shape(tmp_path, layers):
    state = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 9, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(32, 2, 1, 1),
    }
    path = write(tmp_path / "inpainting.safetensors", state)
    match = "conv_in is 32x4x3x3 in this checkpoint, but the adapter was made for 32x9x3x3"
    refused(path, layers, match, MismatchError)


def test_check_needs_no_weights(tmp_path, layers, state):
    path = write(tmp_path / "a.safetensors", state)
    adapter = LoraFile(path)
    path.unlink()
    adapter.check(layers)
    with pytest.raises(MismatchError):
        adapter.check({"unet.conv_in": LayerShape((32, 4, 3, 3))})


def test_a_file_that_changes_in_use_is_refused(tmp_path, layers, state):
    path = write(tmp_path / "a.safetensors", state)
    adapter = LoraFile(path)
    assert adapter.sha256
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(AdapterError, match="changed on disk"):
        adapter.deltas(layers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_low_precisions_are_read_exactly(dtype, tmp_path, layers, unet):
    state = {key: value.to(dtype) for key, value in in_diffusers(factors(unet, "unet", only="attn")).items()}
    deltas = LoraFile(write(tmp_path / "a.safetensors", state)).deltas(layers)
    for name, delta in deltas.items():
        assert torch.equal(delta.up.float(), state[f"{name}.lora_B.weight"].float())
        assert torch.equal(delta.down.float(), state[f"{name}.lora_A.weight"].float())
        assert delta.scale == 1.0


def test_alpha_over_rank(tmp_path, layers):
    state = {f"{TO_K}.lora_down.weight": torch.ones(4, 24), f"{TO_K}.lora_up.weight": torch.ones(32, 4)}
    for alpha, scale in (
        (torch.tensor(2.0), 0.5),
        (torch.tensor(8), 2.0),
        (torch.tensor([4.0]), 1.0),
        (torch.tensor(0.0), 1.0),
    ):
        path = write(tmp_path / "a.safetensors", {**state, f"{TO_K}.alpha": alpha})
        assert [delta.scale for delta in LoraFile(path).deltas(layers).values()] == [scale]
    path = write(tmp_path / "a.safetensors", state)
    assert [delta.scale for delta in LoraFile(path).deltas(layers).values()] == [1.0]


def test_the_coverage_reports_what_is_left_and_why(tmp_path, unet, layers, state):
    clip = tiny_clip()
    text = in_kohya(factors(clip, "text_encoder"))
    extra = {
        "bundle_emb.word.string_to_param.*": torch.ones(1, 4),
        "lora_unet_gone.alpha": torch.tensor(1.0),
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 32),
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.ones(32, 2),
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight": torch.ones(2, 32) * 3,
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight": torch.ones(32, 2) * 3,
    }
    adapter = LoraFile(write(tmp_path / "a.safetensors", {**state, **text, **extra}))
    coverage = adapter.coverage(layers)
    assert len(coverage.placed) == len(state) // 3 + 1
    assert set(coverage.left) == {*text, *(key for key in extra if not key.startswith("unet."))}
    assert set(coverage.left.values()) == {
        "for text_encoder, which is not asked for",
        "a textual inversion packed into the file",
        "an alpha without weights",
        "the same layer again, under another name",
    }
    assert str(coverage).startswith(f"{len(coverage.placed)} layers placed; {len(coverage.left)} keys left (")
    own = adapter.deltas(layers)["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"]
    assert torch.equal(own.up, torch.ones(32, 2)), "the model's own name comes first"
    both = {**layers, **layer_shapes(clip, "text_encoder")}
    assert len(adapter.coverage(both).placed) == len(coverage.placed) + len(text) // 3
    assert len(adapter.deltas(layer_shapes(clip, "text_encoder"))) == len(text) // 3
    assert adapter.deltas({}) == {}


def test_info_is_read_from_the_header(tmp_path, state):
    state = {key: value if "alpha" in key else value.half() for key, value in state.items()}
    path = write(tmp_path / "a.safetensors", state, {"ss_output_name": "mine"})
    info = LoraFile(path).info
    assert (info.layout, info.layers, info.ranks) == ("kohya", {"unet": len(state) // 3}, (4, 5, 6))
    assert info.dtypes == ("F16",)
    assert info.made_for == "cross-attention width 24"
    assert info.metadata == {"ss_output_name": "mine"}
    assert info.sha256.startswith(info.autov2)


@pytest.mark.parametrize("settings", ["[]", "no", '{"unet.lora_alpha": "many"}'])
def test_settings_that_cannot_be_read(settings, tmp_path, layers, unet):
    state = in_diffusers(factors(unet, "unet", only="attn2"))
    path = write(tmp_path / "a.safetensors", state, {"lora_adapter_metadata": settings})
    with pytest.raises(AdapterError, match=r"as a JSON object|the alpha of .* is no finite number"):
        LoraFile(path).deltas(layers)


def test_pefts_layout_needs_its_settings(tmp_path, layers, unet):
    state = in_diffusers(factors(unet, "unet", only="attn2"))
    named = {f"base_model.model.{key.removeprefix('unet.')}": value for key, value in state.items()}
    path = write(tmp_path / "adapter_model.safetensors", named)
    refused(path, layers, "needs its adapter_config.json beside it")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4}))
    assert {delta.scale for delta in LoraFile(path).deltas(layers).values()} == {8 / 4, 8 / 5, 8 / 6}


@pytest.mark.parametrize("settings", [b"\xff\xfe", b"[]", b'{"lora_alpha": 4, "alpha_pattern": ["to_k"]}'])
def test_damaged_settings_beside_the_file(settings, tmp_path, layers, unet):
    path = in_pefts_layout(tmp_path, unet, settings)
    with pytest.raises(AdapterError, match=r"as a JSON object|the alpha of .* is no finite number"):
        LoraFile(path).deltas(layers)


def test_an_open_adapter_keeps_its_hash_and_its_settings(tmp_path, layers, unet):
    path = in_pefts_layout(tmp_path, unet, b'{"lora_alpha": 8}')
    adapter = LoraFile(path)
    before = adapter.sha256
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 16}')
    assert adapter.sha256 == before, "what it draws with has not changed"
    assert LoraFile(path).sha256 != before


def test_a_file_that_is_gone_has_no_autov3(tmp_path, state):
    path = write(tmp_path / "a.safetensors", state)
    adapter, other = LoraFile(path), LoraFile(path)
    assert adapter.autov3
    path.unlink()
    assert other.autov3 is None


@pytest.mark.parametrize(
    ("family", "width", "component"),
    [
        (Family.SD1, 768, "text_encoder"),
        (Family.SD2, 1024, "text_encoder"),
        (Family.SDXL, 768, "text_encoder"),
        (Family.SDXL, 1280, "text_encoder_2"),
        (Family.SDXL_REFINER, 1280, "text_encoder_2"),
    ],
)
@pytest.mark.parametrize("inner", ["text_model.", ""])
def test_pefts_text_encoders_are_told_by_their_width(family, width, component, inner, tmp_path):
    ends = {"self_attn.q_proj": (width, width), "mlp.fc1": (width, 4 * width)}
    if width == 1280:
        ends["text_projection"] = (width, width)
    state = {}
    for end, (into, out) in ends.items():
        name = end if end == "text_projection" else f"{inner}encoder.layers.3.{end}"
        state[f"base_model.model.{name}.lora_A.weight"] = torch.ones(2, into)
        state[f"base_model.model.{name}.lora_B.weight"] = torch.ones(out, 2)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "alpha_pattern": {"fc1": 1}}))
    adapter = LoraFile(write(tmp_path / "adapter_model.safetensors", state))
    shapes = layers_of(family)
    deltas = adapter.deltas(shapes)
    assert adapter.coverage(shapes).components == {component: len(ends)} and adapter.coverage(shapes).left == {}
    assert {name.rpartition(".")[2]: delta.scale for name, delta in deltas.items()} == {
        end.rpartition(".")[2]: 0.5 if end == "mlp.fc1" else 3.0 for end in ends
    }


def test_pefts_text_encoder_of_another_width_is_refused(tmp_path):
    name = "base_model.model.text_model.encoder.layers.3.self_attn.q_proj"
    state = {f"{name}.lora_A.weight": torch.ones(2, 1024), f"{name}.lora_B.weight": torch.ones(1024, 2)}
    (tmp_path / "adapter_config.json").write_text("{}")
    path = write(tmp_path / "adapter_model.safetensors", state)
    refused(path, layers_of(Family.SDXL), r"does not fit: .*text_encoder\.")


def in_pefts_layout(folder, unet, settings):
    state = in_diffusers(factors(unet, "unet", only="attn2"))
    (folder / "adapter_config.json").write_bytes(settings)
    named = {f"base_model.model.{key.removeprefix('unet.')}": value for key, value in state.items()}
    return write(folder / "adapter_model.safetensors", named)
