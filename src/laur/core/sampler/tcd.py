"""TCD: trajectory consistency sampling (arXiv 2402.19159, algorithm 4).

A step goes from t to s = (1 - gamma) · t' deterministically and from there to t' with fresh noise. gamma, called eta
in a Recipe, is 0 for a deterministic run and 1 for one with as much noise as LCM's. As in diffusers the run ends at
timestep 0, whose little noise stays.
"""

from __future__ import annotations

import math

from laur.core.sampler.request import Level, TableRequest, step
from laur.core.sampler.table import StepCoefficients
from laur.core.sampler.timesteps import distilled


def steps(request: TableRequest) -> list[StepCoefficients]:
    """The steps of a run.

    diffusers picks from every timestep as soon as `original_inference_steps` is given, whatever its value; here the
    value means what it means for LCM, and T itself picks from every timestep.
    """
    timesteps = distilled(request)
    table: list[StepCoefficients] = []
    for index, (t, after) in enumerate(zip(timesteps, [*timesteps[1:], 0], strict=True)):
        middle = Level.at(request.schedule, _middle(after, request.eta))
        noisy = request.eta > 0.0 and index < len(timesteps) - 1
        kept = request.schedule.alpha(after) / middle.alpha if noisy else 1.0
        table.append(
            step(
                request.prediction,
                float(t),
                Level.at(request.schedule, t),
                x0=kept * middle.alpha,
                noise=kept * middle.sigma,
                fresh=math.sqrt(max(0.0, 1.0 - kept * kept)),
                draws=noisy,
            )
        )
    return table


def _middle(after: int, eta: float) -> int:
    """floor((1 - eta) · t'), in float32 as diffusers does: 0.7 · 10 is 7 there, and 6.999… in float64."""
    import numpy as np

    return int(np.floor(np.float32(1.0 - eta) * np.float32(after)))
