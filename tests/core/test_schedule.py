"""The noise schedule: equal to diffusers' tables, read from its configs, refused in one line where unsound."""

import json
import pickle
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from trajectories import diffusers_betas

from laur.core.errors import CheckpointError
from laur.core.schedule import NoiseSchedule

KINDS = [("linear", 0.0001, 0.02), ("scaled_linear", 0.00085, 0.012), ("squaredcos_cap_v2", 0.0001, 0.02)]


@pytest.mark.parametrize("length", [1000, 500, 37])
@pytest.mark.parametrize(("kind", "start", "end"), KINDS)
def test_alphas_cumprod_is_diffusers_bit_for_bit(kind: str, start: float, end: float, length: int) -> None:
    schedule = NoiseSchedule(kind, start, end, length)
    reference = DDIMScheduler(**diffusers_betas(schedule)).alphas_cumprod.numpy()
    np.testing.assert_array_equal(schedule.alphas_cumprod, reference)


@pytest.mark.parametrize(("kind", "start", "end"), KINDS)
def test_zero_terminal_snr_is_diffusers(kind: str, start: float, end: float) -> None:
    schedule = NoiseSchedule(kind, start, end, rescale_betas_zero_snr=True)
    reference = DDIMScheduler(**diffusers_betas(schedule)).alphas_cumprod.double().numpy()
    assert np.abs(np.sqrt(schedule.alphas_cumprod) - np.sqrt(reference)).max() < 1e-6
    assert np.abs(np.sqrt(1 - schedule.alphas_cumprod) - np.sqrt(1 - reference)).max() < 1e-5


@pytest.mark.parametrize(("kind", "start", "end"), KINDS)
def test_zero_terminal_snr_keeps_the_first_timestep_and_ends_in_noise(kind: str, start: float, end: float) -> None:
    plain = NoiseSchedule(kind, start, end)
    rescaled = NoiseSchedule(kind, start, end, rescale_betas_zero_snr=True)
    assert rescaled.alpha(0) == pytest.approx(plain.alpha(0), abs=1e-6)
    assert rescaled.alpha(999) == 0.0
    assert rescaled.sigma(999) == 1.0
    assert (rescaled.zero_terminal_snr, plain.zero_terminal_snr) == (True, False)


def test_alpha_and_sigma_are_variance_preserving_and_monotone() -> None:
    schedule = NoiseSchedule()
    alphas = [schedule.alpha(t) for t in range(1000)]
    assert all(a > b for a, b in pairwise(alphas))
    assert all(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 == pytest.approx(1, abs=1e-15) for t in range(1000))


@pytest.mark.parametrize("timestep", [-1, 1000])
def test_timesteps_outside_the_schedule_are_refused(timestep: int) -> None:
    with pytest.raises(IndexError, match="0 … 999"):
        NoiseSchedule().alpha(timestep)


def test_a_schedule_is_a_value() -> None:
    schedule = NoiseSchedule(trained_betas=(0.1, 0.2), num_train_timesteps=2)
    assert schedule == NoiseSchedule(**json.loads(json.dumps(asdict(schedule))) | {"trained_betas": (0.1, 0.2)})
    assert hash(schedule) == hash(pickle.loads(pickle.dumps(schedule)))
    assert NoiseSchedule().alphas_cumprod is NoiseSchedule().alphas_cumprod
    with pytest.raises(ValueError, match="read-only"):
        schedule.alphas_cumprod[0] = 0


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_from_config_reads_what_diffusers_saves(kind: Any) -> None:
    reference = kind(beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.013)
    schedule = NoiseSchedule.from_config(json.loads(reference.to_json_string()))
    assert schedule == NoiseSchedule(beta_start=0.001, beta_end=0.013)
    np.testing.assert_array_equal(schedule.alphas_cumprod, reference.alphas_cumprod.numpy())


def test_missing_keys_take_the_defaults_of_the_scheduler_class() -> None:
    plain = NoiseSchedule.from_config({"_class_name": "EulerDiscreteScheduler"})
    np.testing.assert_array_equal(plain.alphas_cumprod, EulerDiscreteScheduler().alphas_cumprod.numpy())
    assert NoiseSchedule.from_config({"_class_name": "LCMScheduler"}) == NoiseSchedule()


def test_trained_betas_are_used_as_they_are() -> None:
    betas = [0.1, 0.2, 0.3]
    schedule = NoiseSchedule.from_config({"trained_betas": betas})
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod([0.9, 0.8, 0.7]), rtol=1e-6)
    assert schedule.num_train_timesteps == 3
    assert NoiseSchedule.from_config({"trained_betas": [0.5, 1.0]}).zero_terminal_snr


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid' is unknown; Laur samples linear, scaled_linear"),
        ({"thresholding": True}, "thresholding"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"num_train_timesteps": 10**9}, "from 1 to 100,000"),
        ({"num_train_timesteps": "many"}, "must be a whole number, not 'many'"),
        ({"num_train_timesteps": 10.5}, "must be a whole number"),
        ({"beta_start": "a"}, "beta_start must be a number"),
        ({"beta_start": 0.0}, "between 0 and 1"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "must rise"),
        ({"beta_end": float("nan")}, "between 0 and 1"),
        ({"beta_end": 1.5}, "between 0 and 1"),
        ({"trained_betas": [0.1], "num_train_timesteps": 2}, "holds 1 values for 2 timesteps"),
        ({"trained_betas": [0.1, -0.1]}, "trained_betas must lie between 0 and 1"),
        ({"trained_betas": ["a"]}, "trained_betas must"),
        ({"trained_betas": 5}, "trained_betas must"),
        ({"trained_betas": []}, "num_train_timesteps is 0"),
    ],
)
def test_unsound_configs_are_refused_in_one_line(config: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        NoiseSchedule.from_config(config)
    assert "\n" not in str(caught.value)


def test_clip_sample_is_ignored_as_diffusers_pipelines_do() -> None:
    assert NoiseSchedule.from_config({"clip_sample": True}) == NoiseSchedule()
