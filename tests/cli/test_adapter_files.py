"""`laur adapters inspect`, `convert`, `merge` and `extract`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny import tiny_folder, tiny_parts
from laur.optimize.accelerators import LCM_LORA
from laur.optimize.algebra import matrix
from laur.optimize.base import Recommendation
from laur.optimize.layers import LayerShape
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def sd15(path: Path, seed: int = 1, rank: int = 2) -> Path:
    """A LoRA of two layers of SD 1.5, as kohya's scripts write it."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, inner in ((LAYER, 768), (LAYER.replace("to_k", "to_q"), 320)):
        key = "lora_unet_" + name.replace(".", "_")
        state[f"{key}.lora_down.weight"] = torch.randn(rank, inner, generator=draw)
        state[f"{key}.lora_up.weight"] = torch.randn(320, rank, generator=draw)
        state[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(state, path, {"ss_output_name": "mine"})
    return path


def test_inspect_says_where_every_key_goes(laur, tmp_path):
    path = sd15(tmp_path / "a.safetensors")
    spare = {"bundle_emb.word.x": torch.ones(1, 4)}
    save_file({**load_file(path), **spare}, path)
    facts = json.loads(laur("adapters", "inspect", path, "--json").out)
    assert (facts["model"], facts["layout"], facts["keys"], facts["keys_placed"]) == ("sd1", "kohya", 7, 6)
    assert facts["where"] == {"unet": 2} and facts["kinds"] == {"LoRA": 2}
    assert facts["left"] == {"a textual inversion packed into the file": 1}
    assert list(facts["left_keys"]) == ["bundle_emb.word.x"]
    shown = laur("adapters", "inspect", path).out
    assert "sd1" in shown and "unet.down_blocks.0: 2" in shown and "textual inversion packed" in shown


def test_inspect_knows_a_textual_inversion(laur, tmp_path):
    save_file({"emb_params": torch.ones(3, 768)}, tmp_path / "cat.safetensors")
    facts = json.loads(laur("adapters", "inspect", "cat.safetensors", "--json").out)
    assert facts["token"] == "cat" and facts["vectors"] == {"text_encoder": "3 of width 768"}


def test_convert_there_and_back_is_exact(laur, tmp_path):
    path = sd15(tmp_path / "a.safetensors")
    assert laur("adapters", "convert", path, "b.safetensors").code == 0
    assert set(load_file("b.safetensors")) == {
        f"unet.{LAYER.replace('to_k', to)}.lora_{f}.weight" for to in ("to_k", "to_q") for f in "AB"
    }
    assert laur("adapters", "convert", "b.safetensors", "c.safetensors", "--format", "kohya").code == 0
    first, last = load_file(path), load_file("c.safetensors")
    assert first.keys() == last.keys() and all(torch.equal(first[key], last[key]) for key in first)
    assert LoraFile(Path("c.safetensors")).metadata["ss_output_name"] == "mine"


def test_merge_adds_and_takes_away(laur, tmp_path):
    one, two = sd15(tmp_path / "one.safetensors", 1), sd15(tmp_path / "two.safetensors", 2, rank=3)
    outcome = laur("adapters", "merge", f"{one}:0.7", f"{two}:-0.3", "-o", "sum.safetensors")
    assert outcome.code == 0 and "2 layers of rank 5; exact" in outcome.out
    found = load_file("sum.safetensors")
    whole = found[f"unet.{LAYER}.lora_B.weight"] @ found[f"unet.{LAYER}.lora_A.weight"]
    key = "lora_unet_" + LAYER.replace(".", "_")
    a, b = load_file(one), load_file(two)
    parts = [s[f"{key}.lora_up.weight"] @ s[f"{key}.lora_down.weight"] for s in (a, b)]
    expected = 0.7 * parts[0] / 2 - 0.3 * parts[1] / 3
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    facts = json.loads(
        laur("adapters", "merge", one, two, "-o", "less.safetensors", "--rank", 2, "--precision", "fp16", "--json").out
    )
    assert facts["ranks"] == [2] and 0.05 < facts["relative_error"] < 1
    assert load_file("less.safetensors")[f"unet.{LAYER}.lora_A.weight"].dtype == torch.float16


def test_a_style_is_called_by_its_name(laur, tmp_path, monkeypatch):
    file = laur("adapters", "path", "ink").out.strip()
    assert file.endswith("ink.safetensors") and Path(file).is_file()
    assert laur("adapters", "convert", "ink", "mine.safetensors").code == 0
    assert "ink" in laur("adapters", "inspect", "ink").out
    both = laur("adapters", "merge", "lcm-lora-mini", "ink:0.5", "-o", "fast.safetensors", "--model", "mini")
    assert both.code == 0 and LoraFile(Path("fast.safetensors")).recommends.accelerates
    outcome = laur("adapters", "path", "wash")
    assert outcome.code == 2 and "lacks its file" in outcome.err and "make styles" in outcome.err
    monkeypatch.setenv("LAUR_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "styles").mkdir(parents=True)
    (tmp_path / "home" / "styles" / "words.toml").write_text('words = "x"\n[mini]\ntrigger_words = ["in words"]\n')
    outcome = laur("adapters", "convert", "words", "no.safetensors")
    assert outcome.code == 2 and "words alone" in outcome.err and not Path("no.safetensors").exists()
    assert "laur styles" in laur("adapters", "path", "nosuch").err


def test_what_convert_and_merge_leave_is_told(laur, tmp_path):
    path = sd15(tmp_path / "a.safetensors")
    save_file({**load_file(path), "bundle_emb.word.x": torch.ones(1, 4), "bundle_emb.word.y": torch.ones(1, 4)}, path)
    words = "a.safetensors: 2 keys left (a textual inversion packed into the file)"
    for arguments in (["convert", path, "b.safetensors"], ["merge", path, path, "-o", "b.safetensors"]):
        assert laur("adapters", *arguments).err == f"laur: warning: {words}\n"
        assert json.loads(laur("adapters", *arguments, "--json").out)["warnings"] == [words]
    assert json.loads(laur("adapters", "convert", "b.safetensors", "c.safetensors", "--json").out)["warnings"] == []


def test_merge_weighs_blocks(laur, tmp_path):
    one = sd15(tmp_path / "one.safetensors", 1)
    side, number = LAYER.split("_blocks.", maxsplit=1)[0], LAYER.split(".")[1]
    assert laur("adapters", "merge", f"{one}:0.7:{side}{number}=0.5", "-o", "half.safetensors").code == 0
    assert laur("adapters", "merge", f"{one}:0.35", "-o", "plain.safetensors").code == 0
    half, plain = load_file("half.safetensors"), load_file("plain.safetensors")
    for layer in (f"unet.{LAYER}", f"unet.{LAYER.replace('to_k', 'to_q')}"):
        one_product, other = (
            found[f"{layer}.lora_B.weight"] @ found[f"{layer}.lora_A.weight"] for found in (half, plain)
        )
        torch.testing.assert_close(one_product, other)
    assert laur("adapters", "merge", f"{one}:1:up9=0", "-o", "x.safetensors").code == 2
    outcome = laur("adapters", "merge", f"{one}@..0.5", "-o", "x.safetensors")
    assert "cannot be merged for a part of the run" in outcome.err


def test_merge_says_how_the_sum_is_drawn_with(laur, tmp_path):
    style = sd15(tmp_path / "style.safetensors", 1)
    save_file(load_file(style), style, {"laur.recommends": '{"trigger_words": ["in ink", "on paper"]}'})
    other = sd15(tmp_path / "other.safetensors", 2)
    save_file(load_file(other), other, {"modelspec.trigger_phrase": "in oil, in ink"})
    lcm, tcd = sd15(tmp_path / "lcm-lora-mine.safetensors", 3), sd15(tmp_path / "TCD-SD15-LoRA.safetensors", 4)

    def merged(*refs):
        outcome = laur("adapters", "merge", *refs, "-o", "x.safetensors", "--json")
        warnings = json.loads(outcome.out)["warnings"]
        assert all(text in outcome.err for text in warnings)
        return LoraFile(tmp_path / "x.safetensors").recommends, warnings

    found, warnings = merged(f"{style}:0.7", lcm, other)
    assert found == replace(LCM_LORA, trigger_words=("in ink", "on paper", "in oil")) and warnings == []
    assert merged(style, f"{other}:-1", f"{lcm}:-0.5") == (Recommendation(trigger_words=("in ink", "on paper")), [])
    found, (warning,) = merged(lcm, style, tcd)
    assert (found.sampler, found.steps, found.accelerates) == ("lcm", 4, True)
    assert "lcm-lora-mine and TCD-SD15-LoRA" in warning and "that of lcm-lora-mine" in warning


def test_extract_finds_what_was_merged(laur, tmp_path):
    parts = tiny_parts("sd1")
    tiny_folder("sd1", tmp_path / "base", parts=parts)
    draw = torch.Generator().manual_seed(3)
    layer = parts["unet"].get_submodule(LAYER)
    change = torch.randn(32, 2, generator=draw) @ torch.randn(2, layer.weight.shape[1], generator=draw)
    with torch.no_grad():
        layer.weight += change
    tiny_folder("sd1", tmp_path / "tuned", parts=parts)
    outcome = laur("adapters", "extract", "./tuned", "./base", "-o", "x.safetensors", "--error", 0.001, "--no-text")
    assert outcome.code == 0 and "1 layers of rank 2; relative error" in outcome.out and not outcome.err
    deltas = LoraFile(tmp_path / "x.safetensors").deltas(layer_shapes(parts["unet"], "unet"))
    (delta,) = deltas.values()
    torch.testing.assert_close(delta.apply(torch.zeros_like(change)), change, rtol=1e-3, atol=1e-4)


def test_the_error_is_that_of_what_is_stored(laur, tmp_path):
    """A sum is exact, and what a lower precision makes of it is not."""
    a, b = sd15(tmp_path / "a.safetensors"), sd15(tmp_path / "b.safetensors", seed=2)
    exact = laur("adapters", "merge", f"{a}:0.7", f"{b}:0.5", "-o", "s.safetensors")
    assert "exact" in exact.out
    low = laur("adapters", "merge", f"{a}:0.7", f"{b}:0.5", "-o", "t.safetensors", "--precision", "bf16", "--json")
    error = json.loads(low.out)["relative_error"]
    layers = {f"unet.{LAYER}": LayerShape((320, 768)), f"unet.{LAYER.replace('to_k', 'to_q')}": LayerShape((320, 320))}
    found = [LoraFile(tmp_path / f"{name}.safetensors").deltas(layers) for name in "st"]
    whole, stored = ([matrix(name, deltas[name]) for name in layers] for deltas in found)
    lost = sum(float((x - y).square().sum()) for x, y in zip(whole, stored, strict=True))
    assert error == pytest.approx((lost / sum(float(x.square().sum()) for x in whole)) ** 0.5, rel=1e-3)
    assert error > 1e-3


def test_full_differences_are_scaled_without_rounding(laur, tmp_path):
    key = "lora_unet_" + LAYER.replace(".", "_")
    change = torch.randn(320, 768, generator=torch.Generator().manual_seed(1)).half()
    save_file({f"{key}.diff": change}, tmp_path / "full.safetensors")
    assert laur("adapters", "merge", "full.safetensors:0.7", "-o", "o.safetensors", "--format", "kohya").code == 0
    (found,) = load_file("o.safetensors").values()
    torch.testing.assert_close(found, change.float() * 0.7, rtol=1e-7, atol=0)


def test_extract_of_sdxl_without_text_has_kohyas_names(laur, tmp_path):
    parts = tiny_parts("sdxl")
    tiny_folder("sdxl", tmp_path / "base", parts=parts)
    with torch.no_grad():
        parts["unet"].get_submodule("down_blocks.0.resnets.0.conv1").weight[0, 0] += 1.0
    tiny_folder("sdxl", tmp_path / "tuned", parts=parts)
    options = ("--rank", 1, "--no-text", "--format", "kohya")
    assert laur("adapters", "extract", "./tuned", "./base", "-o", "x.safetensors", *options).code == 0
    assert all(key.startswith("lora_unet_input_blocks_1_0_in_layers_2.") for key in load_file("x.safetensors"))


def test_extract_says_what_lies_outside_a_lora(laur, tmp_path):
    parts = tiny_parts("sd1")
    tiny_folder("sd1", tmp_path / "base", parts=parts)
    norm = parts["unet"].get_submodule("conv_norm_out")
    with torch.no_grad():
        norm.weight[0] += 3.0
        norm.bias[0] += 4.0
    tiny_folder("sd1", tmp_path / "norms", parts=parts)
    outcome = laur("adapters", "extract", "./norms", "./base", "-o", "x.safetensors")
    assert (
        outcome.code == 2 and "2 parameters (norms, biases, embeddings; most in unet.conv_norm_out.bias)" in outcome.err
    )
    with torch.no_grad():
        parts["unet"].get_submodule(LAYER).weight[0, 0] += 12.0
    tiny_folder("sd1", tmp_path / "tuned", parts=parts)
    outcome = laur("adapters", "extract", "./tuned", "./base", "-o", "x.safetensors", "--rank", 1, "--json")
    facts = json.loads(outcome.out)
    assert facts["outside"] == ["unet.conv_norm_out.bias", "unet.conv_norm_out.weight"]
    assert facts["outside_share"] == pytest.approx(5 / 13, rel=1e-4) and facts["layers"] == 1
    assert "0.38 of the whole difference is left out" in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "a.safetensors", "b.bin"], "should end in .safetensors"),
        (["convert", "a.safetensors", "gone/b.safetensors"], "there is no folder gone"),
        (["convert", "a.safetensors", "b.safetensors", "--format", "onnx"], "no adapter format 'onnx'"),
        (["convert", "a.safetensors", "b.safetensors", "--precision", "int4"], "no precision 'int4'"),
        (["merge", "a.safetensors:0", "-o", "b.safetensors"], "all weights are 0"),
        (["merge", "a.safetensors", "-o", "b.safetensors", "--rank", "0"], "rank is 0"),
        (["merge", "toy.safetensors", "-o", "b.safetensors"], "toy.safetensors is a textual inversion"),
        (["convert", "toy.safetensors", "b.safetensors"], "say its word in the prompt: toy"),
        (["inspect", "odd.safetensors"], "odd.safetensors"),
        (["inspect", "cut.safetensors"], "truncated"),
        (["convert", "style.pt", "b.safetensors"], "is a pickle file"),
    ],
)
def test_what_goes_wrong_is_one_line(arguments, words, laur, tmp_path):
    path = sd15(tmp_path / "a.safetensors")
    state = {"lora_unet_x.lora_down.weight": torch.ones(2, 5), "lora_unet_x.lora_up.weight": torch.ones(5, 2)}
    save_file(state, tmp_path / "odd.safetensors")
    save_file({"emb_params": torch.ones(3, 768)}, tmp_path / "toy.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-9])
    (tmp_path / "style.pt").write_bytes(b"\x80\x02.")
    outcome = laur("adapters", *arguments)
    assert outcome.code == 2 and words in outcome.err and outcome.err.count("\n") == 1
    assert outcome.out == "" and not list(tmp_path.glob("b.*"))
