"""Adapters in recipes: weights by block and over the run, their texts, and hashes that stay."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laur.core.blocks import BlockWeights, block_name
from laur.core.errors import RecipeError
from laur.core.recipe import AdapterRef, Recipe


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("ink", AdapterRef(name="ink")),
        ("ink:0.8", AdapterRef(name="ink", weight=0.8)),
        ("ink:0.8:mid=0,UP01=.5", AdapterRef(name="ink", weight=0.8, by_block={"mid": 0, "up1": 0.5})),
        ("ink:mid=0", AdapterRef(name="ink", by_block={"mid": 0})),
        ("a/b:-1:IN04=2@left", AdapterRef(name="a/b", weight=-1, by_block={"in4": 2}, region="left")),
        ("ink:0.2,0.8@0.5", AdapterRef(name="ink", phases=((0, 0.2), (0.5, 0.8)))),
        (
            "i:1@.25,-2@0.5:up=0@top",
            AdapterRef(name="i", phases=((0.25, 1), (0.5, -2)), by_block={"up": 0}, region="top"),
        ),
        ("ink:0.7@0,0,0.5,1", AdapterRef(name="ink", weight=0.7, region="0,0,0.5,1")),
        ("ink:0.7@..0.5", AdapterRef(name="ink", weight=0.7, steps=(0, 0.5))),
        ("i:unet=0,unet.up_blocks.1=1", AdapterRef(name="i", by_block={"unet": 0, "unet.up_blocks.1": 1})),
        ("C:\\a=b\\ink.safetensors", AdapterRef(name="C:\\a=b\\ink.safetensors")),
        ("C:\\ink:0.5:BASE=0,M00=1", AdapterRef(name="C:\\ink", weight=0.5, by_block={"text": 0, "mid": 1})),
    ],
)
def test_texts(text: str, ref: AdapterRef) -> None:
    assert AdapterRef.parse(text) == ref


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ink:mid=", "where a block's weight should be"),
        ("ink:mid=x", "'x' where a block's weight should be"),
        ("ink:mid=0,1", "a weight without a block"),
        ("ink:mid=0,mid=1", "block mid has two weights"),
        ("ink:mid=0,M00=1", "block mid has two weights"),
        ("ink:te=0", "block 'te' is unknown; known are unet, text, down"),
        ("ink:mid=1000", "weight of block mid is 1000.0; it must be from -100 to 100"),
        ("ink:mid=nan", "weight of block mid is nan"),
        ("ink:lbw=1,0", "lbw has 2 numbers; it must have one of 12, 17, 20, 26"),
        ("ink:lbw=MIDD", "'MIDD'"),
        ("ink:1,2@1", "phases begin one after the other"),
        ("ink:1@0.5,2@0.5", "phases begin one after the other"),
        ("ink:1,200@0.5", "the weight of a phase is 200.0"),
        ("ink:1,2@0.5@0..0.5", "adapter ink has both steps and phases"),
    ],
)
def test_broken_texts_are_one_line(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        AdapterRef.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"by_block": "mid"}, "weights by block are a table"),
        ({"by_block": {}}, "there are no weights of blocks"),
        ({"by_block": {"mid": "x"}}, "the weight of block mid must be a number"),
        ({"by_block": {5: 1}}, "block 5 is unknown"),
        ({"by_block": {"unet.": 1}}, "block 'unet.' is unknown"),
        ({"phases": 3}, "the phases of an adapter must be a list"),
        ({"phases": [3]}, "a phase of an adapter must be a list"),
        ({"phases": [[0]]}, "a phase is a part of the run and a weight"),
        ({"phases": []}, "phases begin one after the other"),
        ({"phases": [[-1, 1]]}, "a part of the run is -1"),
        ({"block": 3}, "an adapter is NAME:WEIGHT"),
    ],
)
def test_broken_values_are_one_line(values: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        Recipe.from_dict({"prompt": "a", "adapters": [{"name": "ink", **values}]})
    assert "\n" not in str(caught.value)


def test_recipes_without_them_keep_their_hash() -> None:
    old = Recipe(prompt="a", adapters=(AdapterRef(name="ink", weight=0.5),))
    assert old.to_dict()["adapters"] == ({"name": "ink", "weight": 0.5, "sha256": None},)
    assert old.hash == "ff638d25f6020e26af40f34af102c901f4ab91f38cde0331705404a2eede88a1"
    assert len({old.hash, *(old.replace(adapters=(text,)).hash for text in ("ink:0.5:mid=1", "ink:0.5,0.5@0.5"))}) == 3


def test_a_filled_one_comes_back_from_json() -> None:
    ref = AdapterRef.parse("ink:0.5,1@0.25:mid=0,in4=0.3@left")
    recipe = Recipe(prompt="a", adapters=(ref,))
    values = json.loads(recipe.to_json())
    assert values["adapters"][0]["by_block"] == {"in4": 0.3, "mid": 0.0}
    assert values["adapters"][0]["phases"] == [[0.0, 0.5], [0.25, 1.0]]
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.hash == recipe.hash
    assert hash(again.adapters) == hash(recipe.adapters)


def test_weights_of_blocks_are_a_value() -> None:
    one, other = BlockWeights({"up1": 1, "mid": 0}), BlockWeights({"M00": 0.0, "up01": 1.0})
    assert one == other == {"mid": 0.0, "up1": 1.0}
    assert hash(one) == hash(other)
    assert str(one) == "mid=0,up1=1"
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert block_name("OUT00") == "out0"


@given(
    st.dictionaries(
        st.sampled_from(["mid", "up0", "down12", "in4", "out11", "text", "unet.conv_in"]),
        st.floats(-100, 100),
        min_size=1,
    )
)
def test_weights_of_blocks_come_back_from_their_text(weights: dict[str, float]) -> None:
    text = ",".join(f"{name}={weight!r}" for name, weight in weights.items())
    assert BlockWeights.parse(text) == weights


def test_lbw_is_the_extensions_table() -> None:
    twelve = BlockWeights.parse("lbw=" + ",".join(map(str, range(1, 13))))
    assert {name: weight for name, weight in twelve.items() if weight} == {
        "text": 1, "in4": 2, "in5": 3, "in7": 4, "in8": 5, "mid": 6,
        "out0": 7, "out1": 8, "out2": 9, "out3": 10, "out4": 11, "out5": 12,
    }  # fmt: skip
    assert set(twelve) == {"text", "mid", *(f"{side}{n}" for side in ("in", "out") for n in range(9))}
    seventeen = BlockWeights.parse("lbw=" + ",".join(["0"] * 8 + ["1"] * 9))
    assert {name for name, weight in seventeen.items() if weight} == {f"out{n}" for n in range(3, 12)}
    for count in (20, 26):
        numbers = list(range(1, count + 1))
        found = BlockWeights.parse("lbw=" + ",".join(map(str, numbers)))
        half = (count - 2) // 2
        order = ["text", *(f"in{n}" for n in range(half)), "mid", *(f"out{n}" for n in range(half))]
        assert [found[name] for name in order] == numbers


@pytest.mark.parametrize("odd", [{"words": 5}, {"region": [0, 0, 0.5, 1]}, {"words": "x" * 10_001}])
def test_values_of_other_kinds_are_told(odd: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"the adapter's (words|region)"):
        AdapterRef.of({"name": "ink", **odd})
