import dataclasses
from pathlib import Path

import pytest

from helpers.tiny import tiny_folder
from laur.core.errors import NotFoundError, RecipeError, ResourceError
from laur.core.recipe import AdapterRef, Recipe
from laur.optimize import ADAPTERS, BaseAdapter, register
from laur.pipeline.engine import Engine


def test_every_default_is_filled_in_and_recorded(engine32: Engine) -> None:
    filled = engine32.resolve(Recipe(prompt="a fox")).recipe
    assert (filled.steps, filled.guidance, filled.sampler) == (4, 1.0, "lcm")
    assert filled.seed is not None
    assert (filled.width, filled.height) == (256, 256)
    assert filled.adapters is not None
    assert [ref.name for ref in filled.adapters] == ["lcm-lora-mini"]
    assert filled.adapters[0].sha256
    assert filled.checkpoint_sha256
    assert filled.prediction == "v_prediction"


def test_resolving_a_filled_recipe_changes_nothing(engine32: Engine) -> None:
    for recipe in (
        Recipe(prompt="a fox", seed=1),
        Recipe(prompt="a fox", seed=1, sampler="ddim", negative_prompt="blue"),
        Recipe(prompt="a fox", seed=1, adapters=()),
        Recipe(prompt="a fox", seed=1, timesteps=(999, 500, 100)),
    ):
        first = engine32.resolve(recipe)
        again = engine32.resolve(Recipe.from_json(first.recipe.to_json()))
        assert again.recipe == first.recipe
        assert again.plan == first.plan
        assert again.plan.key == first.plan.key


def test_the_plan_knows_no_names(engine32: Engine) -> None:
    plan = engine32.resolve(Recipe(prompt="a fox", seed=1)).plan
    text = repr(dataclasses.asdict(plan))
    assert "lcm-lora-mini" not in text
    assert "'mini'" not in text


def test_another_seed_is_another_plan(engine32: Engine) -> None:
    keys = {engine32.resolve(Recipe(prompt="a fox", seed=seed)).plan.key for seed in (1, 2)}
    assert len(keys) == 2


def test_undistilled_samplers_take_the_teacher_and_its_guidance(engine32: Engine) -> None:
    filled = engine32.resolve(Recipe(prompt="a fox", sampler="ddim")).recipe
    assert filled.adapters == ()
    assert filled.guidance > 1
    assert filled.steps > 8


def test_a_style_adapter_keeps_the_acceleration(engine32: Engine) -> None:
    recipe = Recipe(prompt="a fox", adapters=(AdapterRef(name="lcm-lora-mini", weight=0.5),))
    filled = engine32.resolve(recipe).recipe
    assert [(ref.name, ref.weight) for ref in filled.adapters] == [("lcm-lora-mini", 0.5)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"negative_prompt": "blue"}, "no effect"),
        ({"guidance": 4.0}, "1 to 2"),
        ({"adapters": (), "sampler": "lcm"}, "without LCM-LoRA"),
        ({"guidance_rescale": 0.7}, "guidance rescale has no effect"),
        ({"refiner_start": 0.5}, "refiner start has no effect"),
    ],
)
def test_what_the_user_should_know_is_said(engine32: Engine, fields: dict[str, object], words: str) -> None:
    warnings = engine32.resolve(Recipe.from_dict({"prompt": "a fox", **fields})).warnings
    assert any(words in warning for warning in warnings)


def test_a_plain_wish_warns_of_nothing(engine32: Engine) -> None:
    assert engine32.resolve(Recipe(prompt="a fox")).warnings == ()


def test_guidance_makes_two_rows_with_the_negative_prompt_first(engine32: Engine) -> None:
    (stage,) = engine32.resolve(Recipe(prompt="a fox", guidance=1.5, negative_prompt="blue")).plan.stages
    assert [row.text.prompt for row in stage.rows] == ["blue", "a fox"]
    assert stage.combine.weights == (-0.5, 1.5)


def test_other_content_under_the_same_name_is_refused(engine32: Engine) -> None:
    filled = engine32.resolve(Recipe(prompt="a fox")).recipe
    with pytest.raises(RecipeError, match="checkpoint"):
        engine32.resolve(filled.replace(checkpoint_sha256="0" * 64))
    wrong = AdapterRef(name="lcm-lora-mini", sha256="0" * 64)
    with pytest.raises(RecipeError, match="adapter"):
        engine32.resolve(filled.replace(adapters=(wrong,)))


def test_unknown_names_are_refused(engine32: Engine) -> None:
    with pytest.raises(NotFoundError):
        engine32.resolve(Recipe(prompt="a fox", checkpoint="no-such-model"))
    with pytest.raises(NotFoundError):
        engine32.resolve(Recipe(prompt="a fox", style="no-such-style"))


def test_memory_is_estimated_before_it_is_taken(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laur.pipeline.memory.available_bytes", lambda device: 2 * 2**30)
    engine32.resolve(Recipe(prompt="a fox"))
    with pytest.raises(ResourceError, match="4096x4096 on mini needs about"):
        engine32.resolve(Recipe(prompt="a fox", width=4096, height=4096))


def test_a_hash_alone_pins_the_weights_and_leaves_the_rest_open(engine32: Engine) -> None:
    plain = engine32.resolve(Recipe(prompt="a fox", seed=1)).recipe
    pinned = engine32.resolve(Recipe(prompt="a fox", seed=1, checkpoint_sha256=plain.checkpoint_sha256)).recipe
    assert pinned == plain


def test_a_style_is_taken_once_also_without_hashes(engine32: Engine) -> None:
    """As when a picture is made again with another model."""
    filled = engine32.resolve(Recipe(prompt="a fox", style="lcm-lora-mini")).recipe
    bare = tuple(dataclasses.replace(ref, sha256=None) for ref in filled.adapters or ())
    again = engine32.resolve(filled.replace(checkpoint_sha256=None, adapters=bare)).recipe
    assert again.adapters == filled.adapters


def test_a_style_added_to_a_filled_recipe_is_drawn_with(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ADAPTERS, "_sources", {})
    register("calm", type("Calm", (BaseAdapter,), {"on_x0": lambda self, step, total, x0: x0 * 0.9}))
    filled = engine32.resolve(Recipe(prompt="a fox", seed=3)).recipe
    styled = engine32.resolve(filled.replace(style="calm"))
    assert [ref.name for ref in styled.recipe.adapters or ()] == ["lcm-lora-mini", "calm"]
    assert len(styled.plan.stages[0].adapters) == 2
    assert engine32.resolve(styled.recipe).recipe == styled.recipe


def test_an_engine_keeps_apart_its_own_checkpoint_and_one_that_is_named(tmp_path: Path) -> None:
    own = str(tiny_folder("sd1", tmp_path / "own"))
    engine = Engine(own, device="cpu", dtype="float32")
    assert engine.resolve(Recipe(prompt="a fox")).recipe.checkpoint == own
    assert engine.resolve(Recipe(prompt="a fox", checkpoint="mini")).recipe.checkpoint == "mini"


def test_a_refiner_alone_is_warned_of(tmp_path: Path) -> None:
    engine = Engine(str(tiny_folder("sdxl-refiner", tmp_path / "refiner")), device="cpu", dtype="float32")
    assert any("is a refiner" in warning for warning in engine.resolve(Recipe(prompt="a fox")).warnings)


def test_the_teachers_schedule_is_recorded_for_tcd_too(engine32: Engine) -> None:
    open_wish = Recipe(prompt="a fox", seed=1, sampler="tcd")
    filled = engine32.resolve(open_wish)
    assert filled.recipe.original_inference_steps == 50
    assert engine32.resolve(filled.recipe).plan == engine32.resolve(open_wish).plan
    dense = engine32.resolve(open_wish.replace(original_inference_steps=1000, steps=3))
    assert [step.timestep for step in dense.plan.stages[0].table.steps] == [999, 666, 333]
