"""Our tables against diffusers' schedulers: whole runs from one seed, equal to 1e-5 at every step.

Timesteps, x0, latents, starting noise and the order of the generator's draws are all compared.
"""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
)
from trajectories import ddim_in_float64, diffusers_betas, distance, euler_in_float64, ours, theirs

from laur.core.sampler.build import build_table
from laur.core.sampler.tcd import _middle
from laur.core.schedule import NoiseSchedule

# diffusers hands tensors to np.array, which NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TOLERANCE = 1e-5
STEPS = (1, 2, 4, 8, 20, 50)
SPACINGS = ("leading", "trailing", "linspace")
SD = NoiseSchedule()
SD_ZERO = NoiseSchedule(rescale_betas_zero_snr=True)
LINEAR = NoiseSchedule("linear", 0.0001, 0.02)
COSINE = NoiseSchedule("squaredcos_cap_v2")
TRAINED = NoiseSchedule(num_train_timesteps=500, trained_betas=tuple(0.0002 + 0.00004 * i for i in range(500)))

RUNS = [
    pytest.param(schedule, prediction, steps, id=f"{name}-{prediction}-{steps}")
    for name, schedule in {"sd": SD, "zero-snr": SD_ZERO, "linear": LINEAR, "cosine": COSINE}.items()
    for prediction in ("epsilon", "v_prediction", "sample")
    for steps in (STEPS if schedule in {SD, SD_ZERO} else (1, 4, 20))
    if not (schedule is SD_ZERO and prediction == "epsilon")
]


def spaced(kind: Any, schedule: NoiseSchedule, prediction: str, spacing: str, **more: Any) -> Any:
    return kind(
        **diffusers_betas(schedule), prediction_type=prediction, timestep_spacing=spacing, steps_offset=1, **more
    )


@pytest.mark.parametrize(("schedule", "prediction", "steps"), RUNS)
def test_lcm_is_diffusers(schedule: NoiseSchedule, prediction: str, steps: int) -> None:
    table = build_table("lcm", schedule, prediction=prediction, steps=steps)
    reference = LCMScheduler(**diffusers_betas(schedule), prediction_type=prediction)
    assert distance(ours(table), theirs(reference, num_inference_steps=steps)) < TOLERANCE


@pytest.mark.parametrize("eta", [None, 0.0, 1.0])
@pytest.mark.parametrize(("schedule", "prediction", "steps"), RUNS)
def test_tcd_is_diffusers(schedule: NoiseSchedule, prediction: str, steps: int, eta: float | None) -> None:
    table = build_table("tcd", schedule, prediction=prediction, steps=steps, eta=eta)
    reference = TCDScheduler(**diffusers_betas(schedule), prediction_type=prediction)
    assert distance(ours(table), theirs(reference, eta=eta, num_inference_steps=steps)) < TOLERANCE


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("schedule", "prediction", "steps"), RUNS)
def test_ddim_is_diffusers(schedule: NoiseSchedule, prediction: str, steps: int, spacing: str) -> None:
    to_one = spacing == "trailing"  # as the checkpoints that use it have it
    table = build_table("ddim", schedule, prediction=prediction, steps=steps, spacing=spacing, set_alpha_to_one=to_one)
    reference = spaced(DDIMScheduler, schedule, prediction, spacing, clip_sample=False, set_alpha_to_one=to_one)
    assert distance(ours(table), theirs(reference, num_inference_steps=steps)) < TOLERANCE


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("schedule", "prediction", "steps"), RUNS)
def test_ddim_with_eta_is_diffusers_without_its_rounding(
    schedule: NoiseSchedule, prediction: str, steps: int, spacing: str
) -> None:
    eta = 0.95
    table = build_table("ddim", schedule, prediction=prediction, steps=steps, spacing=spacing, eta=eta)
    reference = spaced(DDIMScheduler, schedule, prediction, spacing, clip_sample=False, set_alpha_to_one=False)
    assert distance(ours(table), ddim_in_float64(reference, eta=eta, steps=steps)) < TOLERANCE


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_with_eta_is_diffusers(prediction: str, eta: float) -> None:
    table = build_table("ddim", SD, prediction=prediction, steps=20, eta=eta)
    reference = spaced(DDIMScheduler, SD, prediction, "leading", clip_sample=False, set_alpha_to_one=False)
    assert distance(ours(table), theirs(reference, eta=eta, num_inference_steps=20)) < TOLERANCE


def test_ddim_with_full_eta_survives_zero_terminal_snr_where_diffusers_gives_nan() -> None:
    reference = spaced(DDIMScheduler, SD_ZERO, "v_prediction", "trailing", clip_sample=False)
    assert ddim_in_float64(reference, eta=1.0, steps=50).latents[0].isnan().all()
    table = build_table("ddim", SD_ZERO, prediction="v_prediction", steps=50, spacing="trailing", eta=1.0)
    assert ours(table).latents[-1].isfinite().all()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("schedule", "prediction", "steps"), RUNS)
def test_euler_is_diffusers(schedule: NoiseSchedule, prediction: str, steps: int, spacing: str) -> None:
    table = build_table("euler", schedule, prediction=prediction, steps=steps, spacing=spacing)
    reference = spaced(EulerDiscreteScheduler, schedule, prediction, spacing)
    mine = ours(table)
    exact = euler_in_float64(reference, prediction=prediction, steps=steps)
    assert distance(mine, exact) < TOLERANCE
    rounded = theirs(reference, num_inference_steps=steps)
    # where sigma is 66 and more, diffusers' own float32 is further off than 1e-5
    assert distance(mine, rounded) < (TOLERANCE if schedule is SD else 2 * distance(rounded, exact) + TOLERANCE)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("schedule", "prediction", "steps"),
    # diffusers treats the last steps of runs below 15 apart
    [*RUNS, pytest.param(SD, "epsilon", 14, id="sd-epsilon-14"), pytest.param(SD, "epsilon", 15, id="sd-epsilon-15")],
)
def test_dpm_is_diffusers(schedule: NoiseSchedule, prediction: str, steps: int, spacing: str) -> None:
    table = build_table("dpm++2m", schedule, prediction=prediction, steps=steps, spacing=spacing)
    reference = spaced(DPMSolverMultistepScheduler, schedule, prediction, spacing)
    assert distance(ours(table), theirs(reference, num_inference_steps=steps)) < TOLERANCE


@pytest.mark.parametrize("timesteps", [(999, 759, 499, 259), (979, 20), (620, 480, 300, 2), (500,)])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lcm", LCMScheduler),
        ("tcd", TCDScheduler),
        ("euler", EulerDiscreteScheduler),
        ("dpm++2m", DPMSolverMultistepScheduler),
    ],
)
def test_custom_timesteps_are_diffusers(name: str, kind: Any, timesteps: tuple[int, ...]) -> None:
    table = build_table(name, SD, prediction="epsilon", steps=len(timesteps), timesteps=timesteps, spacing="leading")
    reference = kind(**diffusers_betas(SD), timestep_spacing="leading")
    assert distance(ours(table), theirs(reference, timesteps=list(timesteps))) < TOLERANCE


@pytest.mark.parametrize("original", [8, 10, 30, 100, 1000])
@pytest.mark.parametrize(("name", "kind"), [("lcm", LCMScheduler), ("tcd", TCDScheduler)])
def test_original_inference_steps_are_diffusers(name: str, kind: Any, original: int) -> None:
    """As the scheduler's configuration gives them."""
    table = build_table(name, SD, prediction="epsilon", steps=7, original_inference_steps=original)
    run = theirs(kind(**diffusers_betas(SD), original_inference_steps=original), num_inference_steps=7)
    assert distance(ours(table), run) < TOLERANCE


@pytest.mark.parametrize("steps", [1, 4, 7, 60])
def test_tcd_on_every_timestep_is_diffusers(steps: int) -> None:
    """Which diffusers takes for any number of original steps that is given for a run."""
    table = build_table("tcd", SD, prediction="epsilon", steps=steps, original_inference_steps=1000)
    run = theirs(TCDScheduler(**diffusers_betas(SD)), num_inference_steps=steps, original_inference_steps=1000)
    assert distance(ours(table), run) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "kind"),
    [("lcm", LCMScheduler), ("euler", EulerDiscreteScheduler), ("dpm++2m", DPMSolverMultistepScheduler)],
)
def test_trained_betas_and_another_length_are_diffusers(name: str, kind: Any) -> None:
    table = build_table(name, TRAINED, prediction="v_prediction", steps=9)
    more = {} if name == "lcm" else {"timestep_spacing": "leading", "steps_offset": 1}
    reference = kind(**diffusers_betas(TRAINED), prediction_type="v_prediction", **more)
    assert distance(ours(table), theirs(reference, num_inference_steps=9)) < TOLERANCE


def test_tcds_middle_timestep_is_rounded_as_in_diffusers() -> None:
    after = torch.arange(1000)
    for eta in (0.0, 0.1, 0.2, 0.3, 0.35, 0.5, 0.7, 0.9, 1.0):
        assert [_middle(int(t), eta) for t in after] == torch.floor((1 - eta) * after).tolist()


@pytest.mark.parametrize("steps", [61, 103, 201])
def test_trailing_timesteps_stop_above_zero_where_diffusers_falls_below(steps: int) -> None:
    reference = spaced(DDIMScheduler, SD, "epsilon", "trailing")
    reference.set_timesteps(steps)
    assert reference.timesteps[-1] == -1
    table = build_table("ddim", SD, prediction="epsilon", steps=steps, spacing="trailing")
    assert [step.timestep for step in table.steps] == reference.timesteps[:-1].tolist()
