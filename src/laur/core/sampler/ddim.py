"""DDIM (arXiv 2010.02502, equations 12 and 16): eta 0 is deterministic, eta 1 has the noise of DDPM."""

from __future__ import annotations

import math

from laur.core.sampler.request import Level, TableRequest, step
from laur.core.sampler.table import StepCoefficients
from laur.core.sampler.timesteps import whole


def steps(request: TableRequest) -> list[StepCoefficients]:
    """The steps of a run.

    As in diffusers a step goes T // steps timesteps down, which is not always the next timestep, and with eta every
    step draws, the last too.
    """
    stride = request.schedule.num_train_timesteps // request.steps
    table: list[StepCoefficients] = []
    for t in whole(request):
        level, target = Level.at(request.schedule, t), _target(request, t - stride)
        fresh = request.eta * _deviation(level, target)
        table.append(
            step(
                request.prediction,
                float(t),
                level,
                x0=target.alpha,
                noise=math.sqrt(max(0.0, target.sigma**2 - fresh**2)),
                fresh=fresh,
                draws=request.eta > 0.0,
            )
        )
    return table


def _target(request: TableRequest, timestep: int) -> Level:
    if timestep >= 0:
        return Level.at(request.schedule, timestep)
    return Level(1.0, 0.0) if request.set_alpha_to_one else Level.at(request.schedule, 0)


def _deviation(level: Level, target: Level) -> float:
    """Standard deviation of the noise that a DDPM step adds between two levels."""
    return target.sigma / level.sigma * math.sqrt(max(0.0, 1.0 - (level.alpha / target.alpha) ** 2))
