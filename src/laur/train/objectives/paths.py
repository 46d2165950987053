"""Where the guided teacher takes latents that the student came by: each drawn to the end by a solver of its own length.

As in backward distillation (arXiv 2405.05224): at inference f is asked of latents that it made itself, so
it is there that it should know where the teacher would go on to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laur.core.sampler.build import build_table

if TYPE_CHECKING:
    from laur.core.checkpoint import Checkpoint
    from laur.core.sampler.table import SamplerTable

SOLVER = "dpm++2m"


class Paths:
    """The teacher's ways from any timestep to the end, by the sampler's own tables."""

    def __init__(self, info: Checkpoint, steps: int) -> None:
        """`steps`: of a way over the whole schedule; one from halfway down has half as many."""
        self._info, self._steps = info, steps
        self._tables: dict[int, SamplerTable] = {}

    def timesteps(self, t: int) -> list[int]:
        """Falling evenly from t; the last step leads to no noise."""
        count = max(1, math.ceil(self._steps * (t + 1) / self._info.schedule.num_train_timesteps))
        return [round(t * (1 - i / count)) for i in range(min(count, t + 1))]

    def table(self, t: int) -> SamplerTable:
        """Of the way from t."""
        if t not in self._tables:
            at = self.timesteps(t)
            info = self._info
            self._tables[t] = build_table(
                SOLVER, info.schedule, prediction=info.prediction, steps=len(at), timesteps=at
            )
        return self._tables[t]

    @torch.no_grad()
    def ends(self, say: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
        """Clean latents (B, C, h, w) from x (B, C, h, w) at timesteps t (B,).

        `say(x, t, rows)` is the teacher's prediction for some rows (n,) of the batch, of their latents and timesteps.
        """
        tables = [self.table(int(one)) for one in t]
        found, before = x.clone(), torch.zeros_like(x)
        for number in range(max(len(table.steps) for table in tables)):
            going = [row for row, table in enumerate(tables) if number < len(table.steps)]
            rows = torch.tensor(going, device=x.device)
            steps = torch.tensor([tables[row].steps[number] for row in going], dtype=torch.float64)
            at, _, _, p, q, a, b, _, d, _ = (
                column[:, None, None, None].to(x.device, x.dtype) for column in steps.unbind(1)
            )
            here = found[rows]
            said = say(here, at.flatten().long(), rows)
            found[rows] = a * here + b * said + d * before[rows]
            before[rows] = p * here + q * said
        return found
