"""What a sampler is asked for, checked, and how its answer is written down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from laur.core.sampler.table import StepCoefficients
from laur.core.schedule import NoiseSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRequest:
    """The arguments of `build_table`, for the samplers to read."""

    schedule: NoiseSchedule
    prediction: str
    steps: int
    spacing: str
    steps_offset: int
    set_alpha_to_one: bool
    timesteps: tuple[int, ...] | None
    original_inference_steps: int | None
    eta: float
    strength: float = 1.0


class Level(NamedTuple):
    """A noise level: x = alpha · x0 + sigma · noise, alpha² + sigma² = 1."""

    alpha: float
    sigma: float

    @classmethod
    def at(cls, schedule: NoiseSchedule, timestep: int) -> Level:
        """The schedule's own level at a whole timestep."""
        return cls(schedule.alpha(timestep), schedule.sigma(timestep))

    @classmethod
    def of_ratio(cls, ratio: float) -> Level:
        """The level with sigma / alpha = `ratio`, the noise level of variance-exploding samplers."""
        alpha = 1.0 / math.sqrt(1.0 + ratio * ratio)
        return cls(alpha, ratio * alpha)


class Reading(NamedTuple):
    """What a prediction says: x0 = p · x + q · pred and noise = u · x + w · pred."""

    p: float
    q: float
    u: float
    w: float


def read(prediction: str, level: Level) -> Reading:
    """How to read an epsilon, v_prediction (arXiv 2202.00512, appendix D) or sample prediction at `level`."""
    alpha, sigma = level
    if prediction == "epsilon":
        return Reading(p=1.0 / alpha, q=-sigma / alpha, u=0.0, w=1.0)
    if prediction == "v_prediction":
        return Reading(p=alpha, q=-sigma, u=sigma, w=alpha)
    return Reading(p=0.0, q=1.0, u=1.0 / sigma, w=-alpha / sigma)


def step(
    prediction: str,
    timestep: float,
    level: Level,
    *,
    x0: float,
    noise: float,
    fresh: float = 0.0,
    history: float = 0.0,
    draws: bool = False,
) -> StepCoefficients:
    """The step x' = x0 · (predicted x0) + noise · (predicted noise) + fresh · draw + history · (x0 before)."""
    p, q, u, w = read(prediction, level)
    return StepCoefficients(
        timestep=timestep,
        alpha=level.alpha,
        sigma=level.sigma,
        p=p,
        q=q,
        a=x0 * p + noise * u,
        b=x0 * q + noise * w,
        c=fresh,
        d=history,
        draws=draws,
    )
