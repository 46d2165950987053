"""DPM-Solver++ (2M), the midpoint form (arXiv 2211.01095, algorithm 2).

Over lambda = log(alpha / sigma) the second-order step is the first-order one (DDIM's) with x0 extrapolated from the
step before. The first and the last step, which ends without noise, are of first order.
"""

from __future__ import annotations

import math

from laur.core.sampler.ratios import levels
from laur.core.sampler.request import Level, TableRequest, step
from laur.core.sampler.table import StepCoefficients
from laur.core.sampler.timesteps import open_ended


def steps(request: TableRequest) -> list[StepCoefficients]:
    """The steps of a run. Where `advance` has no x0 of a step before, a second-order step becomes first-order."""
    timesteps = open_ended(request)
    along = levels(request.schedule, timesteps)
    table: list[StepCoefficients] = []
    for index, t in enumerate(timesteps):
        level, target = along[index], along[index + 1]
        pull = 0.0
        if 0 < index < len(timesteps) - 1:
            ratio = _log_snr_step(level, target) / _log_snr_step(along[index - 1], level)
            pull = 0.5 * ratio * (target.alpha - level.alpha * target.sigma / level.sigma)
        table.append(
            step(request.prediction, float(t), level, x0=target.alpha + pull, noise=target.sigma, history=-pull)
        )
    return table


def _log_snr_step(level: Level, target: Level) -> float:
    return math.log(target.alpha / level.alpha) - math.log(target.sigma / level.sigma)
