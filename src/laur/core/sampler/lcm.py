"""LCM: multistep consistency sampling (arXiv 2310.04378, algorithm 3).

Every step jumps to x0 by the consistency function and, but for the last, adds noise for the next timestep.

With eta below 1 that noise is fresh in part only: a share gamma of it by standard deviation, and sqrt(1 - gamma²) of
the noise that x0 leaves of x_t, as in DDIM (arXiv 2010.02502, equation 12). gamma falls from 1 after the first step in
equal parts to eta after the last but one. Early noise lets a consistency model draw details anew; late noise lets it
decide again on what was settled, and a model whose latents hardly tell two colours apart may then take the other one.
"""

from __future__ import annotations

import math

from laur.core.boundary import boundary
from laur.core.sampler.request import Level, TableRequest, read
from laur.core.sampler.table import StepCoefficients
from laur.core.sampler.timesteps import distilled


def steps(request: TableRequest) -> list[StepCoefficients]:
    """The steps of a run; x0 is the value of the consistency function."""
    timesteps = distilled(request)
    targets = [Level.at(request.schedule, t) for t in timesteps[1:]] + [Level(1.0, 0.0)]
    table: list[StepCoefficients] = []
    for index, (t, target) in enumerate(zip(timesteps, targets, strict=True)):
        level = Level.at(request.schedule, t)
        reading, (c_skip, c_out) = read(request.prediction, level), boundary(t)
        p, q = c_out * reading.p + c_skip, c_out * reading.q
        fresh = _fresh(index, len(timesteps), request.eta)
        # of the noise (x - alpha · x0) / sigma that is in x_t
        kept = target.sigma * math.sqrt(1.0 - fresh * fresh) / level.sigma
        table.append(
            StepCoefficients(
                timestep=float(t),
                alpha=level.alpha,
                sigma=level.sigma,
                p=p,
                q=q,
                a=target.alpha * p + kept * (1.0 - level.alpha * p),
                b=target.alpha * q - kept * level.alpha * q,
                c=target.sigma * fresh,
                d=0.0,
                draws=index < len(timesteps) - 1 and fresh > 0.0,
            )
        )
    return table


def _fresh(index: int, count: int, eta: float) -> float:
    """gamma after step `index` of `count`; after the last it does not matter."""
    if index >= count - 2:
        return eta
    return 1.0 - (1.0 - eta) * index / (count - 2)
