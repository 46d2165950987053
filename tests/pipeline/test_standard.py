"""StandardPipeline: what a call plans, and how its results show themselves."""

import pytest

import laur
from laur.core.errors import RecipeError
from laur.pipeline.engine import Engine
from laur.pipeline.standard import StandardPipeline


def test_picture_i_of_a_prompt_has_seed_plus_i(engine32: Engine) -> None:
    jobs = StandardPipeline(engine=engine32).plan(["a fox", "a cat"], n=2, seed=7, steps=1)
    assert [(job.recipe.prompt, job.recipe.seed) for job in jobs] == [
        ("a fox", 7),
        ("a fox", 8),
        ("a cat", 9),
        ("a cat", 10),
    ]


def test_an_open_seed_is_drawn_once(engine32: Engine) -> None:
    first, second = StandardPipeline(engine=engine32).plan("a fox", n=2)
    assert first.recipe.seed is not None
    assert second.recipe.seed == first.recipe.seed + 1


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_picture_is_refused(engine32: Engine, n: int) -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        StandardPipeline(engine=engine32)("a fox", n=n)


def test_a_result_holds_images_recipes_and_warnings_and_shows_itself(engine32: Engine) -> None:
    pipeline = laur.StandardPipeline(engine=engine32, style="lcm-lora-mini")
    result = pipeline("a <fox>", seed=7, steps=1, width=50, height=34, negative_prompt="blue")
    (image,), (recipe,) = result.images, result.recipes
    assert image.size == (50, 34)
    assert (recipe.prompt, recipe.seed, recipe.style) == ("a <fox>", 7, "lcm-lora-mini")
    assert any("negative prompt" in warning for warning in result.warnings)
    shown = result._repr_html_()
    assert "data:image/png;base64," in shown
    assert "a &lt;fox&gt;" in shown
    assert len(result) == 1
    assert repr(result[0]) == "Picture(50x34, prompt='a <fox>', seed=7)"
