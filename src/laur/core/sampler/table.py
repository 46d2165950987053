"""Samplers as data: one row of float64 coefficients per step.

With x the latent, `pred` the network's (combined) prediction and `noise` a fresh standard normal draw:

    x0 = p · x + q · pred
    x' = a · x + b · pred + c · noise + d · x0_prev

in variance-preserving coordinates (x_t = alpha · x0 + sigma · noise, alpha² + sigma² = 1), so that the network always
sees x itself. LCM, TCD, DDIM, Euler and DPM-Solver++ (2M) all fit; `x0_prev` is the x0 of the step before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class StepCoefficients(NamedTuple):
    """One step. `c` != 0 is the only reason to draw noise, unless `draws` says that a draw happens regardless."""

    timestep: float
    """What the network is told, 0 … T - 1."""
    alpha: float
    """Signal scale of x before the step."""
    sigma: float
    """Noise scale of x before the step."""
    p: float
    q: float
    a: float
    b: float
    c: float
    d: float
    draws: bool
    """Whether the generator advances by one draw here (diffusers draws in some steps whose c is 0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerTable:
    """A sampler's whole run."""

    name: str
    initial_scale: float
    """The starting latent is this times a standard normal draw."""
    steps: tuple[StepCoefficients, ...]

    def slice(self, start: int, stop: int) -> SamplerTable:
        """Steps start … stop - 1 (image to image, base then refiner). Multistep history begins anew at `start`."""
        return SamplerTable(name=self.name, initial_scale=self.initial_scale, steps=self.steps[start:stop])
