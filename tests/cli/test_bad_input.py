"""Each wish that cannot be fulfilled: one clear line, exit code 2, and no file."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

PROMPT = "a red fox"


def assert_refused(outcome, *words: str) -> None:
    assert outcome.code == 2
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("laur: ")
    for word in words:
        assert word in lines[0]
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], ["prompt is empty"]),
        (["   "], ["prompt is empty"]),
        ([], ["no prompt"]),
        (["x" * 100_000], ["100,000 characters", "10,000"]),
        ([PROMPT, "--negative", "x" * 100_000], ["negative prompt", "10,000"]),
        ([PROMPT, "--steps", "0"], ["steps is 0", "1 to 1000"]),
        ([PROMPT, "--steps", "-1"], ["steps is -1", "1 to 1000"]),
        ([PROMPT, "--steps", "1000000"], ["steps is 1000000", "1 to 1000"]),
        ([PROMPT, "--steps", "four"], ["--steps", "four"]),
        ([PROMPT, "--size", "0"], ["width is 0", "16"]),
        ([PROMPT, "--size", "7x7"], ["width is 7", "16"]),
        ([PROMPT, "--size", "256x-8"], ["height is -8", "16"]),
        ([PROMPT, "--size", "100000x100000"], ["width is 100000", "16384"]),
        ([PROMPT, "--size", "wide"], ["'wide'", "WIDTHxHEIGHT"]),
        ([PROMPT, "--size", "9" * 40], ["WIDTHxHEIGHT"]),
        ([PROMPT, "--seed", "-1"], ["seed is -1"]),
        ([PROMPT, "--guidance", "nan"], ["guidance", "nan"]),
        ([PROMPT, "--guidance", "1e9"], ["guidance", "100"]),
        ([PROMPT, "-n", "0"], ["-n", "1"]),
        ([PROMPT, "-n", "1000000"], ["-n", "10000"]),
        ([PROMPT, "-n", "2", "--seed", 2**53], ["seed"]),
        ([PROMPT, "--sampler", "euler_a"], ["euler_a", "lcm"]),
        ([PROMPT, "--prediction", "velocity"], ["velocity", "v_prediction"]),
        ([PROMPT, "--timesteps", "1,2,3"], ["fall", "(1, 2, 3)"]),
        ([PROMPT, "--timesteps", "often"], ["'often'"]),
        ([PROMPT, "--steps", "3", "--timesteps", "999,499"], ["steps is 3", "2 timesteps"]),
        ([PROMPT, "--adapter", "none", "--adapter", "lcm-lora-mini"], ["none"]),
        ([PROMPT, "--adapter", "lcm-lora-mini:1e9"], ["weight", "100"]),
        ([PROMPT, "--format", "gif"], ["'gif'", "png"]),
        ([PROMPT, "--out", "fox.gif"], ["gif", "png"]),
        ([PROMPT, "--out", "fox.png", "--format", "jpeg"], ["png", "jpeg"]),
        ([PROMPT, "--recipe", "nowhere.json"], ["nowhere.json"]),
        ([PROMPT, "--stepss", "4"], ["--stepss", "--steps"]),
        ([PROMPT, "another"], ["another"]),
    ],
)
def test_generate_refuses(laur, arguments, words) -> None:
    outcome = laur("generate", *arguments)
    assert_refused(outcome, *words)
    assert outcome.files == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "abacus"], ["abacus", "cpu"]),
        (["--device", "cuda:77"], ["cuda"]),
        (["--dtype", "int4"], ["int4", "bfloat16"]),
        (["--device", "cpu", "--dtype", "float16"], ["float16", "bfloat16"]),
        (["--adapter", "lcm-lora-min"], ["lcm-lora-min", "lcm-lora-mini"]),
        (["--adapter", "nowhere.safetensors"], ["nowhere.safetensors"]),
        (["--style", "nowhere"], ["nowhere"]),
        (["--model", "nowhere"], ["nowhere", "mini"]),
        (["--model", "./nowhere.safetensors"], ["nowhere.safetensors"]),
        (["--model", "nobody/nothing"], ["nobody/nothing"]),
        (["--refiner", "nowhere", "--steps", "8"], ["nowhere"]),
        (["--size", "16384x16384"], ["memory", "16384x16384"]),
        (["--clip-skip", "12"], ["clip skip is 12"]),
        (["--sampler", "ddim", "--timesteps", "999,499"], ["ddim", "custom timesteps"]),
    ],
)
def test_generate_refuses_what_only_the_models_can_tell(laur, arguments, words) -> None:
    outcome = laur("generate", PROMPT, *arguments)
    assert_refused(outcome, *words)
    assert outcome.files == []


FILES = {
    "random.safetensors": os.urandom(4096),
    "cut.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{}",
    "empty.safetensors": b"",
    "old.ckpt": b"\x80\x02}q\x00.",
    "old.bin": b"\x80\x02}q\x00.",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("option", ["--model", "--adapter"])
def test_weights_that_are_none(laur, tmp_path: Path, option, name) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    outcome = laur("generate", PROMPT, option, name)
    assert_refused(outcome, name, *(["safetensors"] if name.startswith("old") else []))
    assert outcome.files == [name]


def test_an_adapter_for_another_architecture_names_the_mismatch(laur, tmp_path: Path) -> None:
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    factors = {f"{layer}.lora_A.weight": torch.zeros(4, 768), f"{layer}.lora_B.weight": torch.zeros(640, 4)}
    save_file(factors, tmp_path / "sd15.safetensors")
    outcome = laur("generate", PROMPT, "--adapter", "sd15.safetensors")
    assert_refused(outcome, "sd15.safetensors", "SD 1.x")
    assert outcome.files == ["sd15.safetensors"]


@pytest.mark.parametrize("option", ["--model", "--adapter"])
def test_a_download_that_was_cut_short(laur, tmp_path: Path, option) -> None:
    from laur.models import adapter_file

    whole = adapter_file("lcm-lora-mini").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    assert_refused(laur("generate", PROMPT, option, "half.safetensors"), "half.safetensors", "truncated")


@pytest.mark.parametrize("content", ["[]", "{", '{"steps": 4}', '{"prompt": 7}', '{"prompt": "x", "stepps": 4}', "\0"])
def test_a_recipe_that_is_none(laur, tmp_path: Path, content) -> None:
    (tmp_path / "recipe.json").write_text(content)
    assert_refused(laur("generate", "--recipe", "recipe.json"))


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_loaded(laur, monkeypatch) -> None:
    monkeypatch.setattr("laur.cli.draw.open_engine", lambda order: pytest.fail("the model was opened"))
    assert_refused(laur("generate", PROMPT, "--out", "/proc/laur/fox.png"), "/proc/laur/fox.png")


def test_a_part_of_the_path_that_is_a_file(laur, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    assert_refused(laur("generate", PROMPT, "--out", "taken/fox.png"), "taken")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reproduce", "nowhere.png"], ["nowhere.png"]),
        (["reproduce"], ["FILE"]),
        (["inspect", "nowhere.safetensors"], ["nowhere.safetensors"]),
        (["inspect"], ["PATH"]),
        (["models", "path", "nowhere"], ["nowhere", "mini"]),
        (["adapters", "path", "nowhere"], ["nowhere", "lcm-lora-mini"]),
        (["models", "path"], ["NAME"]),
        (["bench", "--repeats", "0"], ["--repeats"]),
        (["paint"], ["paint"]),
    ],
)
def test_other_commands_refuse(laur, arguments, words) -> None:
    assert_refused(laur(*arguments), *words)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_out_of_memory_is_one_line(laur, monkeypatch, error) -> None:
    def fail(order):
        raise error

    monkeypatch.setattr("laur.cli.draw.open_engine", fail)
    assert_refused(laur("generate", PROMPT), "out of memory", "smaller size")


def test_a_bug_keeps_its_trace(laur, monkeypatch) -> None:
    def fail(order):
        raise RuntimeError("a bug")

    monkeypatch.setattr("laur.cli.draw.open_engine", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        laur("generate", PROMPT)
