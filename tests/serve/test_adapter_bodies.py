"""Adapters in requests: weights by block and over the run, as in recipes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from laur.core.errors import RecipeError
from laur.core.recipe import AdapterRef
from laur.serve.http.models import AdapterBody, RecipeBody


def test_a_body_says_what_a_recipe_can() -> None:
    values = {"name": "ink", "weight": 0.8, "region": "left", "by_block": {"mid": 0.5}, "phases": [[0, 0.2], [0.5, 1]]}
    wanted = AdapterRef(name="ink", weight=0.8, region="left", by_block={"mid": 0.5}, phases=((0, 0.2), (0.5, 1)))
    assert AdapterBody.model_validate(values).ref() == wanted
    recipe = RecipeBody.model_validate(
        {"prompt": "a", "adapters": [values, {"name": "oil", "steps": [0.0, 0.5]}]}
    ).recipe()
    assert recipe.adapters == (wanted, AdapterRef(name="oil", steps=(0.0, 0.5)))
    assert AdapterBody.model_validate({"name": "ink"}).ref() == AdapterRef(name="ink")


@pytest.mark.parametrize(
    "values",
    [{"by_block": {"nose": 1.0}}, {"by_block": {"mid": 1e9}}, {"phases": [[0.5]]}, {"phases": [[0.5, 1], [0.2, 1]]}],
)
def test_what_fields_cannot_tell_is_one_line(values: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as caught:
        RecipeBody.model_validate({"prompt": "a", "adapters": [{"name": "ink", **values}]}).recipe()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [{"by_block": {"mid": "x"}}, {"steps": [0.5]}, {"region": "../x"}, {"blocks": {}}])
def test_other_shapes_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AdapterBody.model_validate({"name": "ink", **values})
