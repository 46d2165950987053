"""The consistency boundary: what turns a prediction into a consistency function (arXiv 2310.04378, section 4.1).

    f(x, t) = c_skip(t) · x + c_out(t) · x0_predicted,   with c_skip(0) = 1 and c_out(0) = 0, so that f(x, 0) = x

Latent consistency models scale the timestep by ten, which makes the boundary so sharp that f is the predicted x0 in
all but name from the second timestep on.
"""

from __future__ import annotations

import math
from typing import NamedTuple

SIGMA_DATA = 0.5
"""Standard deviation of the data that the formula assumes (consistency models, arXiv 2303.01469, appendix C)."""

TIMESTEP_SCALING = 10.0
"""Factor on the timestep of every published LCM and LCM-LoRA."""


class Boundary(NamedTuple):
    """Weights of x and of the predicted x0."""

    c_skip: float
    c_out: float


def boundary(timestep: float, *, sigma_data: float = SIGMA_DATA, scaling: float = TIMESTEP_SCALING) -> Boundary:
    """c_skip and c_out at `timestep`, in units of the training schedule."""
    scaled = timestep * scaling
    total = scaled**2 + sigma_data**2
    return Boundary(c_skip=sigma_data**2 / total, c_out=scaled / math.sqrt(total))
