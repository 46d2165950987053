r"""Wildcards and tags: {a|b} drawn by the seed, <lora:name:0.8> taken out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laur.core.errors import RecipeError
from laur.core.recipe import AdapterRef
from laur.input.tags import take, with_words, without_words
from laur.input.wildcards import expand, has_wildcards


def test_a_seed_draws_the_same_again_and_all_options_come_up() -> None:
    prompt = "{red|green|blue} fox"
    drawn = [expand(prompt, seed) for seed in range(300)]
    assert drawn == [expand(prompt, seed) for seed in range(300)]
    counts = Counter(drawn)
    assert set(counts) == {"red fox", "green fox", "blue fox"}
    assert min(counts.values()) > 70


def test_weights_say_how_often() -> None:
    counts = Counter(expand("{3::red|blue}", seed) for seed in range(800))
    assert 2.3 < counts["red"] / counts["blue"] < 4
    assert {expand("{0::red|blue}", seed) for seed in range(50)} == {"blue"}


def test_they_nest_and_each_is_drawn_by_itself() -> None:
    found = {expand("{a {big|small}|no} hat, {x|y}", seed) for seed in range(200)}
    assert found == {f"{hat} hat, {end}" for hat in ("a big", "a small", "no") for end in "xy"}


@pytest.mark.parametrize("plain", ["a fox", "{}", "{fox}", "a } b { c", "{a", r"\{a|b\}", r"a | b", "{{x}}"])
def test_what_is_no_wildcard_stays(plain: str) -> None:
    assert expand(plain, 5) == plain
    assert not has_wildcards(plain)


@given(st.text(alphabet="ab{}|\\:1 ", max_size=40), st.integers(0, 9))
def test_a_drawn_prompt_is_drawn_no_more(prompt: str, seed: int) -> None:
    try:
        once = expand(prompt, seed)
    except RecipeError:
        return
    assert expand(once, seed + 1) == once


def test_endless_braces_are_refused_in_one_line() -> None:
    with pytest.raises(RecipeError, match="deep"):
        expand("{a|" * 40 + "b" + "}" * 40, 0)


def test_options_of_weight_zero_alone_are_refused() -> None:
    with pytest.raises(RecipeError, match="weight 0"):
        expand("{0::a|0::b}", 0)


def test_tags_become_adapters_and_leave_the_prompt() -> None:
    prompt, refs = take("a fox <lora:ink:0.8>, noto <lora:oil> <lyco:x:0.5:0.5> <lora:left one:1@left>")
    assert prompt == "a fox, noto"
    assert refs == (
        AdapterRef(name="ink", weight=0.8),
        AdapterRef(name="oil"),
        AdapterRef(name="x", weight=0.5),
        AdapterRef(name="left one", weight=1.0, region="left"),
    )
    assert take("a < b > c") == ("a < b > c", ())


def test_tags_weigh_blocks_and_parts_of_the_run() -> None:
    lbw = "lbw=1,0,0,0,0,2,0,0,0,0,0,0"
    _, refs = take(f"a <lora:x:0.5:0.7> <lora:y:0.8:mid=0@left> <lora:z:0.2,0.8@0.5> <lora:w:1:1:{lbw}>")
    assert refs[0] == AdapterRef(name="x", by_block={"text": 0.5, "unet": 0.7})
    assert refs[1] == AdapterRef(name="y", weight=0.8, by_block={"mid": 0.0}, region="left")
    assert refs[2] == AdapterRef(name="z", phases=((0.0, 0.2), (0.5, 0.8)))
    assert refs[3].by_block is not None
    assert {name: weight for name, weight in refs[3].by_block.items() if weight} == {"text": 1.0, "mid": 2.0}


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("<lora:a:0.5:0.7:0.9> x", "too many weights"),
        ("<lora:a:0.5:0.7:mid=0> x", "too many weights"),
        ("<lora:a:much> x", "'much'"),
        ("<lora:a:200> x", "100"),
        ("<lora:a:1:lbw=MIDD> x", "'MIDD'"),
        ("<lora:a:1:te=0.5> x", "block 'te' is unknown"),
        ("<lora:a:1,2> x", "'1,2'"),
    ],
)
def test_broken_tags_are_refused(prompt: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        take(prompt)


def test_words_are_said_once() -> None:
    assert with_words("a fox", ["oil painting"]) == "a fox, oil painting"
    assert with_words("an Oil Painting of a fox", ["oil painting"]) == "an Oil Painting of a fox"
    assert with_words("a foil paintings", ["oil painting"]) == "a foil paintings, oil painting"
    assert without_words("a fox, x, y", ["x", "y"]) == "a fox"
    assert without_words("a fox", ["x"]) == "a fox"
