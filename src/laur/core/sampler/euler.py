"""Euler's method on the probability flow (arXiv 2206.00364, algorithm 2 without churn).

k-diffusion and diffusers keep variance-exploding latents, x0 + (sigma / alpha) · noise. Divided by
sqrt(1 + (sigma / alpha)²) these are ours, and Euler's step becomes that of DDIM with eta 0.
"""

from __future__ import annotations

from itertools import pairwise

from laur.core.sampler.ratios import levels
from laur.core.sampler.request import TableRequest, step
from laur.core.sampler.table import StepCoefficients
from laur.core.sampler.timesteps import fractional


def steps(request: TableRequest) -> list[StepCoefficients]:
    """The steps of a run."""
    timesteps = fractional(request)
    spans = pairwise(levels(request.schedule, timesteps))
    return [
        step(request.prediction, t, level, x0=target.alpha, noise=target.sigma)
        for t, (level, target) in zip(timesteps, spans, strict=True)
    ]


def initial_scale(request: TableRequest, first: StepCoefficients) -> float:
    """Unit variance with leading timesteps, else the noise part of the first level alone, as in diffusers."""
    return 1.0 if request.spacing == "leading" else first.sigma
