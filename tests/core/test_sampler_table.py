"""What must hold for every table, whatever diffusers does: properties, refusals, slices, light imports."""

import dataclasses
import json
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler, StableDiffusionXLImg2ImgPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from laur.core.boundary import boundary
from laur.core.errors import CheckpointError, LaurError, RecipeError
from laur.core.recipe import Recipe
from laur.core.sampler import DEFAULT_ETA, DISTILLED, SAMPLERS
from laur.core.sampler.apply import advance
from laur.core.sampler.build import build_table, split_at
from laur.core.sampler.table import StepCoefficients
from laur.core.schedule import NoiseSchedule

SD = NoiseSchedule()
SD_ZERO = NoiseSchedule(rescale_betas_zero_snr=True)


def exact(step: StepCoefficients, prediction: str, x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """What a perfect network predicts when the only picture in the world is `x0`."""
    noise = (x - step.alpha * x0) / step.sigma
    return {"epsilon": noise, "v_prediction": step.alpha * noise - step.sigma * x0, "sample": x0}[prediction]


tables = st.fixed_dictionaries(
    {
        "name": st.sampled_from(SAMPLERS),
        "schedule": st.sampled_from([SD, SD_ZERO, NoiseSchedule("linear", 0.0001, 0.02)]),
        "prediction": st.sampled_from(["epsilon", "v_prediction", "sample"]),
        "steps": st.integers(1, 50),
        "spacing": st.sampled_from(["leading", "trailing"]),
    }
).filter(lambda wish: not (wish["schedule"] is SD_ZERO and wish["prediction"] == "epsilon"))


def in_float64(
    step: StepCoefficients, x: torch.Tensor, prediction: torch.Tensor, noise: torch.Tensor, x0_prev: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `advance` gives, and that it gives it but for float32's rounding of the terms that it adds."""
    x0 = step.p * x + step.q * prediction
    after = step.a * x + step.b * prediction + step.c * noise + step.d * (x0 if x0_prev is None else x0_prev)
    found = advance(step, *(t.float() for t in (x, prediction, noise)), None if x0_prev is None else x0_prev.float())
    for got, exact_value, size in zip(found, (after, x0), (step.a, step.p), strict=True):
        terms = 1 + (size * x).abs().max() + prediction.abs().max() * max(abs(step.q), abs(step.b))
        torch.testing.assert_close(got.double(), exact_value, rtol=0, atol=1e-6 * float(terms))
    return after, x0


@settings(max_examples=60, deadline=None)
@given(wish=tables, seed=st.integers(0, 1000))
def test_a_perfect_network_is_followed_to_its_picture_from_any_start(wish: dict[str, Any], seed: int) -> None:
    name, schedule = wish.pop("name"), wish.pop("schedule")
    table = build_table(name, schedule, set_alpha_to_one=True, **wish)
    generator = torch.Generator().manual_seed(seed)
    target, x = torch.randn((2, 4, 4, 4), generator=generator, dtype=torch.float64)
    x, x0 = 3 * x, None
    for step in table.steps:
        seen, draw = x, torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x, x0 = in_float64(step, x, exact(step, wish["prediction"], x, target), draw, x0)
        # LCM keeps c_skip of x, 7e-6 at timestep 19
        torch.testing.assert_close(x0, target, rtol=0, atol=2e-4)
    # as in diffusers, TCD ends at timestep 0, which has a little noise, and DDIM 1000 // steps below its last
    end = {"tcd": 0, "ddim": int(table.steps[-1].timestep) - 1000 // len(table.steps)}.get(name, -1)
    if end >= 0:
        noise = exact(table.steps[-1], "epsilon", seen, target)
        target = schedule.alpha(end) * target + schedule.sigma(end) * noise
    torch.testing.assert_close(x, target, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_lands_on_its_x0(name: str) -> None:
    table = build_table(name, SD, prediction="epsilon", steps=4, set_alpha_to_one=True)
    last = table.steps[-1]
    if name != "tcd":
        assert (last.a, last.b, last.c, last.d) == pytest.approx((last.p, last.q, 0, 0), abs=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("steps", "eta", "shares"),
    [
        (2, 0.0, [0.0]),
        (2, 0.4, [0.4]),
        (3, 0.0, [1.0, 0.0]),
        (4, 0.0, [1.0, 0.5, 0.0]),
        (4, 0.4, [1.0, 0.7, 0.4]),
        (5, 1.0, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_lcm_s_later_steps_keep_a_growing_part_of_the_noise_that_was_there(
    prediction: str, steps: int, eta: float, shares: list[float]
) -> None:
    """Step by step, for a perfect network: alpha' x0 + sigma' (sqrt(1 - share²) noise + share · fresh)."""
    table = build_table("lcm", SD, prediction=prediction, steps=steps, eta=eta)
    generator = torch.Generator().manual_seed(3)
    picture, noise = torch.randn((2, 4, 8, 8), generator=generator, dtype=torch.float64)
    x = table.steps[0].alpha * picture + table.steps[0].sigma * noise
    for step, after, share in zip(table.steps, table.steps[1:], shares, strict=False):
        fresh = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        assert step.draws == (share > 0)
        x, found = advance(step, x, exact(step, prediction, x, picture), fresh, None)
        assert float((found - picture).abs().max()) < 1e-4  # the boundary's c_skip lets a little noise pass
        noise = math.sqrt(1 - share**2) * noise + share * fresh
        assert float((x - after.alpha * picture - after.sigma * noise).abs().max()) < 1e-4
    assert not table.steps[-1].draws
    assert len(shares) == steps - 1


def test_lcm_with_all_of_its_noise_fresh_is_the_paper_s() -> None:
    assert build_table("lcm", SD, prediction="epsilon", steps=8, eta=1.0) == build_table(
        "lcm", SD, prediction="epsilon", steps=8
    )


def _gaussian_error(name: str, steps: int) -> float:
    """Distance from the exact flow of N(0, 1/4) between timesteps 900 and 100, in float64."""
    deviation = 0.5
    timesteps = [900 - round(i * 800 / steps) for i in range(steps + 1)]
    table = build_table(name, SD, prediction="sample", steps=steps + 1, timesteps=timesteps)

    def spread(step: StepCoefficients) -> float:
        return math.hypot(step.alpha * deviation, step.sigma)

    x, previous = spread(table.steps[0]), None
    for step in table.steps[:-1]:
        x0 = step.alpha * deviation**2 / spread(step) ** 2 * x
        x, previous = step.a * x + step.b * x0 + step.d * (x0 if previous is None else previous), x0
    return abs(x - spread(table.steps[-1]))


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("dpm++2m", 2)])
def test_the_order_of_convergence_is_the_declared_one(name: str, order: int) -> None:
    measured = math.log2(_gaussian_error(name, 20) / _gaussian_error(name, 40))
    assert measured > order - 0.1
    assert order > 1 or measured < order + 0.1


def test_history_that_begins_anew_makes_a_first_order_step() -> None:
    second_order = build_table("dpm++2m", SD, prediction="v_prediction", steps=10).steps[5]
    assert second_order.d != 0
    x, prediction = torch.randn(2, 4, 8, 8)
    after, x0 = advance(second_order, x, prediction, None, None)
    alone = build_table(
        "euler",
        SD,
        prediction="v_prediction",
        steps=2,
        timesteps=[
            int(step.timestep) for step in build_table("dpm++2m", SD, prediction="epsilon", steps=10).steps[5:7]
        ],
    )
    expected, expected_x0 = advance(alone.steps[0], x, prediction, None, None)
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(x0, expected_x0)


@pytest.mark.parametrize(
    ("name", "eta", "expected"),
    [
        ("lcm", None, [True, True, True, False]),
        ("tcd", None, [True, True, True, False]),
        ("tcd", 0.0, [False] * 4),
        ("ddim", None, [False] * 4),
        ("ddim", 0.5, [True] * 4),
        ("euler", None, [False] * 4),
        ("dpm++2m", None, [False] * 4),
    ],
)
def test_steps_draw_noise_as_diffusers_does(name: str, eta: float | None, expected: list[bool]) -> None:
    table = build_table(name, SD, prediction="epsilon", steps=4, eta=eta)
    assert [step.draws for step in table.steps] == expected
    assert all(step.draws for step in table.steps if step.c)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_levels_are_those_of_the_timesteps(name: str) -> None:
    for step in build_table(name, SD_ZERO, prediction="v_prediction", steps=7, spacing="trailing").steps:
        alpha = SD_ZERO.alpha(int(step.timestep))
        if name in {"euler", "dpm++2m"} and step.timestep == 999:
            alpha = 2.0**-12  # the square root of 2^-24, which stands for zero
        assert step.alpha == pytest.approx(alpha, abs=1e-12)
        assert step.alpha**2 + step.sigma**2 == pytest.approx(1, abs=1e-12)


def test_a_missing_draw_is_a_bug_that_says_so() -> None:
    step = build_table("lcm", SD, prediction="epsilon", steps=2).steps[0]
    with pytest.raises(ValueError, match="needs a draw"):
        advance(step, torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), None, None)


@pytest.mark.parametrize(
    ("name", "wish", "error", "says"),
    [
        ("heun", {}, RecipeError, "sampler 'heun' is unknown; choose one of lcm, tcd, ddim"),
        ("lcm", {"prediction": "flow"}, CheckpointError, "prediction 'flow' is unknown"),
        ("ddim", {"spacing": "middle"}, CheckpointError, "timestep_spacing 'middle' is unknown"),
        ("lcm", {"steps": 51}, RecipeError, "steps is 51, but they are picked from 50"),
        ("tcd", {"steps": 30, "original_inference_steps": 20}, RecipeError, "picked from 20"),
        ("lcm", {"original_inference_steps": 1001}, RecipeError, "original_inference_steps is 1001"),
        ("ddim", {"steps": 1001}, RecipeError, "steps is 1001; this model's schedule takes from 1 to 1000"),
        ("euler", {"steps": 0}, RecipeError, "steps is 0"),
        ("ddim", {"steps": 1000}, RecipeError, "1000 steps with leading spacing do not fit"),
        ("dpm++2m", {"steps": 1000, "spacing": "linspace"}, RecipeError, "1000 steps with linspace spacing do not fit"),
        ("ddim", {"timesteps": (900, 500, 100, 1)}, RecipeError, "ddim takes no custom timesteps"),
        ("lcm", {"timesteps": (900, 500)}, RecipeError, "steps is 4 but 2 timesteps"),
        ("lcm", {"timesteps": (900, 900, 100, 1)}, RecipeError, "must fall"),
        ("euler", {"timesteps": (1000, 900, 100, 1)}, RecipeError, "from 0 to 999"),
        ("euler", {"timesteps": (900, 800, 100, -1)}, RecipeError, "from 0 to 999"),
        ("euler", {"eta": 0.5}, RecipeError, "euler has no eta; leave it out or use lcm, tcd or ddim"),
        ("lcm", {"eta": -0.1}, RecipeError, "eta is -0.1; it must be from 0 to 1"),
        ("ddim", {"eta": 1.5}, RecipeError, "eta is 1.5; it must be from 0 to 1"),
        ("euler", {"original_inference_steps": 50}, RecipeError, "euler has no original_inference_steps"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_one_line(
    name: str, wish: dict[str, Any], error: type[LaurError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        build_table(name, SD, **{"prediction": "epsilon", "steps": 4} | wish)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SAMPLERS)
def test_epsilon_is_refused_at_zero_terminal_snr(name: str) -> None:
    with pytest.raises(CheckpointError, match="zero terminal SNR"):
        build_table(name, SD_ZERO, prediction="epsilon", steps=4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers, under NumPy 2
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.751, 0.8, 0.9])
@pytest.mark.parametrize(("name", "kind"), [("euler", EulerDiscreteScheduler), ("lcm", LCMScheduler)])
@pytest.mark.parametrize("steps", [4, 25, 40])
def test_base_and_refiner_split_where_diffusers_splits(name: str, kind: Any, steps: int, fraction: float) -> None:
    table = build_table(name, SD, prediction="epsilon", steps=steps, steps_offset=0)
    first, second = split_at(table, SD, fraction)
    assert first.steps + second.steps == table.steps
    scheduler = kind(timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    pipeline = SimpleNamespace(scheduler=scheduler)
    kept, _ = StableDiffusionXLImg2ImgPipeline.get_timesteps(pipeline, steps, 1.0, "cpu", fraction)  # pyright: ignore
    assert [step.timestep for step in second.steps] == kept.tolist()


def test_tables_are_plain_numbers() -> None:
    table = build_table("dpm++2m", SD, prediction="v_prediction", steps=20)
    assert json.loads(json.dumps(dataclasses.asdict(table)))["steps"][3] == list(table.steps[3])
    assert table == build_table("dpm++2m", SD, prediction="v_prediction", steps=20)
    assert all(type(value) is float for step in table.steps for value in step[:-1])


def test_every_name_has_a_table_and_only_distilled_ones_an_original_schedule() -> None:
    for name in SAMPLERS:
        assert build_table(name, SD, prediction="epsilon", steps=3).name == name
        assert Recipe(prompt="a", sampler=name).sampler == name
    assert {"lcm", "tcd"} == DISTILLED
    assert set(DEFAULT_ETA) < set(SAMPLERS)


def test_the_boundary_is_the_identity_at_zero_and_the_prediction_beyond() -> None:
    assert boundary(0) == (1.0, 0.0)
    assert boundary(0.05) == pytest.approx((0.5, math.sqrt(0.5)))
    for timestep in (1, 19, 259, 999):
        c_skip, c_out = LCMScheduler().get_scalings_for_boundary_condition_discrete(timestep)
        assert boundary(timestep) == pytest.approx((c_skip, c_out), rel=1e-6)


def test_recipes_and_tables_import_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, laur.core.recipe, laur.core.plan, laur.core.sampler.build, laur.core.guidance, "
        "laur.core.sampler.apply; print([m for m in ('torch', 'numpy', 'diffusers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
