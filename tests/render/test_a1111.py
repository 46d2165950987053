"""A1111's text: written by its rules and read by its rules."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laur.core.recipe import AdapterRef, Recipe
from laur.render.a1111 import parse_parameters, quote, read_fields, recipe_from_parameters, write_parameters

FILLED = Recipe(
    prompt="a red fox",
    negative_prompt="blurry, dark",
    seed=7,
    steps=4,
    guidance=1.0,
    width=256,
    height=192,
    sampler="lcm",
    adapters=(AdapterRef(name="lcm-lora-mini"), AdapterRef(name="/some/where/ink.v2.safetensors", weight=-0.25)),
    clip_skip=2,
)


def written(recipe: Recipe, **changes: object) -> str:
    values = {
        "version": "Laur 0.1.0",
        "model": "mini",
        "model_hash": "0123456789",
        "adapter_hashes": {"lcm-lora-mini": "abcdef0123456789", "/some/where/ink.v2.safetensors": "f" * 64},
    }
    return write_parameters(recipe, **{**values, **changes})


def reference_fields(line: str) -> list[tuple[str, str]]:
    """A1111's rule for the last line as a regular expression, which takes quadratic time."""
    return re.findall(r"\s*(\w[\w \-/]+):\s*(\"(?:\\.|[^\\\"])+\"|[^,]*)(?:,|$)", line)


def test_the_text_is_as_a1111_writes_it():
    assert written(FILLED) == (
        "a red fox <lora:lcm-lora-mini:1> <lora:ink.v2:-0.25>\n"
        "Negative prompt: blurry, dark\n"
        "Steps: 4, Sampler: LCM, CFG scale: 1, Seed: 7, Size: 256x192, Model hash: 0123456789, Model: mini, "
        'Clip skip: 2, RNG: CPU, Lora hashes: "lcm-lora-mini: abcdef012345, ink.v2: ffffffffffff", Version: Laur 0.1.0'
    )


def test_what_is_default_or_unknown_is_left_out():
    plain = FILLED.replace(negative_prompt="", adapters=(), clip_skip=1, guidance=1.5)
    assert written(plain, adapter_hashes={}) == (
        "a red fox\nSteps: 4, Sampler: LCM, CFG scale: 1.5, Seed: 7, Size: 256x192, Model hash: 0123456789, "
        "Model: mini, RNG: CPU, Version: Laur 0.1.0"
    )


def test_a_model_is_named_without_folder_suffix_and_syntax():
    assert ", Model: dream, er 8" not in written(FILLED, model="/models/dream, er: 8.safetensors")
    assert ", Model: dream er 8, " in written(FILLED, model="/models/dream, er: 8.safetensors")
    assert ", Model: stable-diffusion-v1-5, " in written(FILLED, model="runwayml/stable-diffusion-v1-5")


def test_only_comma_colon_and_line_break_are_quoted():
    assert quote("Laur 0.1.0") == "Laur 0.1.0"
    assert quote('say "hi"') == 'say "hi"'
    assert quote('a: "b", 狐') == '"a: \\"b\\", 狐"'
    assert quote("a\nb") == '"a\\nb"'


def test_the_text_reads_back():
    parsed = parse_parameters(written(FILLED))
    assert parsed["Prompt"] == "a red fox <lora:lcm-lora-mini:1> <lora:ink.v2:-0.25>"
    assert parsed["Negative prompt"] == "blurry, dark"
    assert (parsed["Size-1"], parsed["Size-2"]) == ("256", "192")
    assert parsed["Lora hashes"] == "lcm-lora-mini: abcdef012345, ink.v2: ffffffffffff"
    assert parsed["Clip skip"] == "2"


@pytest.mark.parametrize(
    "prompt",
    [
        "Steps: 9, Sampler: Euler a, Seed: 1",
        'a "quoted", fox: 🦊',
        "two\nlines, Steps: 20, Seed: 3, Size: 1x1",
        "first\n\nthird",
    ],
)
def test_prompts_that_look_like_fields_stay_prompts(prompt):
    parsed = parse_parameters(written(FILLED.replace(prompt=prompt, adapters=()), adapter_hashes={}))
    assert parsed["Prompt"] == prompt
    assert parsed["Negative prompt"] == "blurry, dark"
    assert parsed["Steps"] == "4"


def test_a_picture_of_a1111_itself_is_understood():
    text = """masterpiece, ((fox)) <lora:add_detail:0.5>
Negative prompt: (worst quality:1.4),
ugly
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned, Lora hashes: "add_detail: 7c6bad76eb54", Version: v1.10.1"""
    parsed = parse_parameters(text)
    assert parsed["Negative prompt"] == "(worst quality:1.4),\nugly"
    assert parsed["Schedule type"] == "Karras"
    assert parsed["Clip skip"] == "1"
    assert recipe_from_parameters(parsed) == Recipe(
        prompt="masterpiece, ((fox))",
        negative_prompt="(worst quality:1.4),\nugly",
        seed=965400086,
        steps=20,
        guidance=7.5,
        width=512,
        height=768,
        sampler="dpm++2m",
        checkpoint="v1-5-pruned",
        adapters=(AdapterRef(name="add_detail", weight=0.5),),
    )


@pytest.mark.parametrize("text", ["", "a fox", "Steps: x", "a\nSteps: 4, Seed: 1", "<lora:x>", "\n\n:::,,,"])
def test_text_without_enough_fields_is_all_prompt(text):
    parsed = parse_parameters(text)
    assert parsed["Prompt"] == text.strip()
    assert recipe_from_parameters(parsed) is None


def test_a_sampler_that_we_lack_makes_no_recipe():
    parsed = parse_parameters(written(FILLED).replace("LCM", "Heun"))
    assert parsed["Sampler"] == "Heun"
    assert recipe_from_parameters(parsed) is None


@given(st.text(alphabet=st.sampled_from('abZ09_ -/:,"\\\\\t.é狐🦊'), max_size=60))
def test_fields_are_those_that_a1111_finds(line):
    assert list(read_fields(line)) == reference_fields(line)


@pytest.mark.parametrize(
    "line", ['a b: "x, y", cd: "e" f, gh:', 'ab: "",cd: "\\"", e:f', "a:b:cd:ef", ' -ab c/d: "open, g: 1']
)
def test_odd_fields_are_those_that_a1111_finds(line):
    assert list(read_fields(line)) == reference_fields(line)


def test_a_long_line_takes_no_quadratic_time():
    """A megabyte of words would keep the plain regular expression busy for hours."""
    assert parse_parameters("word " * 200_000)["Prompt"].startswith("word word")


def test_weights_by_block_of_the_extension_are_read_and_ours_are_written() -> None:
    lbw = ",".join(["1", *"0000", "1", *"000000"])
    last = "Steps: 4, Sampler: LCM, CFG scale: 1, Seed: 7, Size: 64x64"
    text = f"a fox <lora:ink:0.8:lbw={lbw}> <lora:oil:0.5:lbw=MIDD>\n{last}"
    recipe = recipe_from_parameters(parse_parameters(text))
    assert recipe is not None and recipe.adapters is not None
    ink, oil = recipe.adapters
    assert (ink.name, ink.weight, oil) == ("ink", 0.8, AdapterRef(name="oil", weight=0.5))
    assert ink.by_block is not None
    assert {block for block, weight in ink.by_block.items() if weight} == {"text", "mid"}
    ours = recipe.replace(adapters=(AdapterRef(name="ink", weight=0.8, by_block={"mid": 0.5}), AdapterRef(name="toy")))
    words = {"toy": ("<toy>", "ab" * 32)}
    written = write_parameters(ours, version="x", model="m", model_hash="", adapter_hashes={}, words=words)
    assert "<lora:ink:0.8:mid=0.5>" in written
    assert "<lora:toy" not in written
    assert 'TI hashes: "toy: abababababab"' in written
