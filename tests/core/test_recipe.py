"""Recipes: every bad value is refused in one short line, and what is accepted comes back from JSON as it was."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laur.core.errors import LaurError, RecipeError
from laur.core.recipe import PROMPT_LIMIT, SEED_LIMIT, SIZE_LIMIT, STEPS_LIMIT, AdapterRef, Recipe
from laur.core.sampler import SAMPLERS

BAD = [
    ({"prompt": ""}, "the prompt is empty; say what to draw"),
    ({"prompt": " \n"}, "the prompt is empty"),
    ({"prompt": "a" * 100_000}, "the prompt has 100,000 characters; at most 10,000 are read; shorten it"),
    ({"prompt": None}, "the prompt must be text, not None"),
    ({"prompt": 5}, "the prompt must be text, not 5"),
    ({"prompt": "fox \udcff"}, "character 5"),
    ({"negative_prompt": "a" * 10_001}, "the negative prompt has 10,001 characters"),
    ({"negative_prompt": None}, "the negative prompt must be text"),
    ({"seed": -1}, "seed is -1; it must be from 0"),
    ({"seed": SEED_LIMIT + 1}, f"from 0 to {SEED_LIMIT}"),
    ({"seed": 1.5}, "seed must be a whole number"),
    ({"steps": 0}, "steps is 0; it must be from 1 to 1000"),
    ({"steps": -1}, "steps is -1"),
    ({"steps": 1_000_000}, "steps is 1000000; it must be from 1 to 1000"),
    ({"steps": True}, "steps must be a whole number"),
    ({"steps": "4"}, "steps must be a whole number from 1 to 1000, not '4'"),
    ({"width": 0}, "width is 0; it must be from 16 to 16384"),
    ({"height": 7}, "height is 7; it must be from 16"),
    ({"width": 100_000}, "width is 100000"),
    ({"height": 256.0}, "height must be a whole number"),
    ({"guidance": -0.5}, "guidance is -0.5; it must be from 0 to 100"),
    ({"guidance": math.nan}, "guidance is nan"),
    ({"guidance": math.inf}, "guidance is inf"),
    ({"guidance": 10**400}, "guidance is 1000"),
    ({"guidance": "high"}, "guidance must be a number"),
    ({"guidance_rescale": 1.1}, "guidance rescale is 1.1"),
    ({"guidance_rescale": None}, "guidance rescale must be a number"),
    ({"eta": 2}, "eta is 2; it must be from 0 to 1"),
    ({"sampler": "dpm"}, "sampler 'dpm' is unknown; choose one of lcm, tcd, ddim, euler, dpm\\+\\+2m"),
    ({"sampler": ["lcm"]}, "is unknown; choose one of"),
    ({"prediction": "eps"}, "prediction 'eps' is unknown; choose one of epsilon, v_prediction, sample"),
    ({"clip_skip": 0}, "clip skip is 0"),
    ({"checkpoint": ""}, "the checkpoint is empty"),
    ({"checkpoint": {"a": 1}}, "the checkpoint must be text"),
    ({"style": 3}, "the style must be text"),
    ({"refiner_start": 1.0}, "refiner start is 1.0; it must be from 0.01 to 0.99"),
    ({"original_inference_steps": 0}, "original inference steps is 0"),
    ({"timesteps": ()}, "timesteps must fall"),
    ({"timesteps": (5, 5)}, "timesteps must fall, as in 999,759,499,259; got \\(5, 5\\)"),
    ({"timesteps": tuple(range(500))}, "timesteps must fall"),
    ({"timesteps": (9, -1)}, "a timestep is -1"),
    ({"timesteps": (9.5,)}, "a timestep must be a whole number"),
    ({"timesteps": 5}, "timesteps must be a list, not 5"),
    ({"timesteps": "999"}, "timesteps must be a list, not '999'"),
    ({"timesteps": (9, 1), "steps": 4}, "steps is 4 but 2 timesteps are given; leave one out"),
    ({"adapters": "lcm"}, "adapters must be a list, not 'lcm'"),
    ({"adapters": [5]}, "an adapter is NAME:WEIGHT or {name, weight, sha256}, not 5"),
    ({"adapters": [""]}, "an adapter needs a name or a file"),
    ({"adapters": [{"name": "a", "strength": 1}]}, "an adapter is NAME:WEIGHT"),
    ({"adapters": [{"name": 1}]}, "the adapter's name must be text"),
    ({"adapters": [{"name": "a", "weight": "b"}]}, "adapter weight must be a number"),
    ({"adapters": ["a:1000"]}, "adapter weight is 1000.0; it must be from -100 to 100"),
    ({"adapters": ["a:nan"]}, "adapter weight is nan"),
    ({"image": "cat.png"}, "the image is named by its content, sha256:HASH with 64 hex digits, not 'cat.png'"),
    ({"image": "sha256:" + "A" * 64}, "sha256:HASH"),
    ({"image": 5}, "sha256:HASH"),
    ({"mask": "sha256:" + "a" * 64}, "a mask says what of a picture is drawn anew, and there is none"),
    ({"strength": 1.01}, "strength is 1.01; it must be from 0 to 1"),
    ({"strength": -0.1}, "strength is -0.1"),
    ({"strength": "half"}, "strength must be a number"),
    ({"mask_blur": -1}, "mask blur is -1; it must be from 0 to 256"),
    ({"paste_back": 1}, "paste back must be true or false, not 1"),
    ({"stepz": 4}, "a recipe has no field 'stepz'; did you mean steps\\?"),
    ({"zzz": 4}, "a recipe has no field 'zzz'; known are prompt"),
]


@pytest.mark.parametrize(("values", "says"), BAD)
def test_bad_values_are_refused_in_one_short_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        Recipe.from_dict({"prompt": "a red fox"} | values)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 600
    assert isinstance(caught.value, LaurError)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("values", "says"), BAD[:-2])
def test_the_constructor_checks_as_from_dict_does(values: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Recipe(**({"prompt": "a red fox"} | values))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must be JSON"),
        ("{", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "must be JSON"),
        ("[]", "must be a JSON object, not list"),
        ("null", "must be a JSON object"),
        ("{}", "a recipe needs a prompt"),
    ],
)
def test_what_is_no_recipe_is_refused(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        Recipe.from_json(text)
    assert "\n" not in str(caught.value)


def test_the_limits_themselves_are_accepted() -> None:
    Recipe(prompt="a" * PROMPT_LIMIT, seed=SEED_LIMIT, steps=STEPS_LIMIT, width=SIZE_LIMIT, height=16, guidance=100)
    Recipe(prompt="a", seed=0, steps=1, width=16, guidance=0, eta=0, refiner_start=0.01, adapters=())


recipes = st.builds(
    Recipe,
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip),
    negative_prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    seed=st.none() | st.integers(0, SEED_LIMIT),
    guidance=st.none() | st.floats(0, 100) | st.integers(0, 100),
    width=st.none() | st.integers(16, SIZE_LIMIT),
    sampler=st.none() | st.sampled_from(SAMPLERS),
    eta=st.none() | st.floats(0, 1),
    image=st.none() | st.just("sha256:" + "ab" * 32),
    strength=st.none() | st.floats(0, 1),
    paste_back=st.none() | st.booleans(),
    timesteps=st.none()
    | st.lists(st.integers(0, 999), min_size=1, max_size=8, unique=True).map(
        lambda values: tuple(sorted(values, reverse=True))
    ),
    adapters=st.none()
    | st.lists(
        st.builds(
            AdapterRef,
            name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
            weight=st.floats(-100, 100) | st.integers(-100, 100),
            sha256=st.none() | st.just("ab" * 32),
        ),
        max_size=3,
    ).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(recipe=recipes)
def test_json_brings_back_the_same_recipe(recipe: Recipe) -> None:
    back = Recipe.from_json(recipe.to_json())
    assert back == recipe
    assert back.hash == recipe.hash
    assert back.to_json() == recipe.to_json()
    assert Recipe.from_json(json.dumps(json.loads(recipe.to_json()), indent=2)) == recipe


def test_equal_numbers_have_one_hash_and_other_values_another() -> None:
    assert Recipe(prompt="a", guidance=2).hash == Recipe(prompt="a", guidance=2.0).hash
    assert AdapterRef(name="a", weight=1) == AdapterRef(name="a", weight=1.0)
    hashes = {Recipe(prompt="a").hash, Recipe(prompt="b").hash, Recipe(prompt="a", seed=0).hash}
    assert len(hashes) == 3


def test_a_recipe_without_a_picture_keeps_the_hash_that_it_had_before_there_were_any() -> None:
    assert Recipe(prompt="a").hash == "a0d506aa20b13c577fdad64299a4f025fc0076143a7d3c805b2f588d3bcd4b35"


def test_lists_become_tuples_and_names_become_adapters() -> None:
    recipe = Recipe(prompt="a", adapters=["lcm-lora-mini:0.5"], timesteps=[999, 1])  # pyright: ignore[reportArgumentType]
    assert recipe.adapters == (AdapterRef(name="lcm-lora-mini", weight=0.5),)
    assert recipe.timesteps == (999, 1)
    assert hash(recipe) == hash(Recipe.from_json(recipe.to_json()))


@pytest.mark.parametrize(
    ("text", "name", "weight"),
    [
        ("lcm", "lcm", 1.0),
        ("lcm:0.8", "lcm", 0.8),
        ("lcm:-1", "lcm", -1.0),
        ("C:\\styles\\a.safetensors", "C:\\styles\\a.safetensors", 1.0),
        ("C:\\a.safetensors:2", "C:\\a.safetensors", 2.0),
        ("ns:name", "ns:name", 1.0),
        (":0.5", ":0.5", 1.0),
    ],
)
def test_adapters_are_parsed_with_their_weights(text: str, name: str, weight: float) -> None:
    assert AdapterRef.parse(text) == AdapterRef(name=name, weight=weight)


def test_a_replaced_recipe_is_checked_again() -> None:
    recipe = Recipe(prompt="a", steps=4)
    assert recipe.replace(steps=8).steps == 8
    with pytest.raises(RecipeError, match="steps is 0"):
        recipe.replace(steps=0)
    with pytest.raises(AttributeError):
        recipe.steps = 5  # pyright: ignore[reportAttributeAccessIssue]
