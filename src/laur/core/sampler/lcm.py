"""LCM: multistep consistency sampling (arXiv 2310.04378, algorithm 3).

Every step jumps to x0 by the consistency function and, but for the last, adds noise for the next timestep.
"""

from __future__ import annotations

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
        table.append(
            StepCoefficients(
                timestep=float(t),
                alpha=level.alpha,
                sigma=level.sigma,
                p=p,
                q=q,
                a=target.alpha * p,
                b=target.alpha * q,
                c=target.sigma,
                d=0.0,
                draws=index < len(timesteps) - 1,
            )
        )
    return table
