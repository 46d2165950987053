"""The gradients of one update: slices of the global batch, one after the other and over processes, then clipped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from laur.train.prefetch import Prefetch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from laur.train.config import RunConfig
    from laur.train.loop import Feeding
    from laur.train.objective import Loss, Objective
    from laur.train.processes import Processes

NAMED = 6
"""Samples that a message names at most."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the gradients of an update came from, the same in every process."""

    loss: float
    parts: Mapping[str, float]
    norm: float
    """Of the whole gradient, before clipping."""
    seconds: float
    """The first process's clock at the beginning of the update."""
    stop: bool
    """Whether any process was told to stop."""

    @property
    def is_finite(self) -> bool:
        """Whether the weights may follow."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Steps:
    """Makes the gradients of an objective's parameters."""

    def __init__(
        self,
        objective: Objective,
        feed: Feeding,
        config: RunConfig,
        parameters: Mapping[str, nn.Parameter],
        processes: Processes,
    ) -> None:
        self._objective = objective
        self._parameters = list(parameters.values())
        self._processes = processes
        self._clip = config.optimiser.clip or math.inf
        self._rows = processes.rows(config.batch, config.accumulate)
        self._low = config.precision == "bfloat16"
        self._device = self._parameters[0].device
        self._feed = Prefetch(feed, self._rows) if self._device.type == "cuda" else feed
        self._suspects: tuple[str, ...] = ()

    def gradients(self, update: int, seconds: float, stop: bool) -> Step:
        """Leave the mean gradient of the global batch, clipped, in the parameters.

        Waits for the device once, for the numbers that say whether to go on.
        """
        self.clear()
        losses: list[Loss] = []
        self._names: list[tuple[str, ...]] = []
        for rows in self._rows:
            batch, draws = self._feed.batch(update, rows)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
                loss = self._objective.loss(batch, draws)
            (loss.total / len(self._rows)).backward()
            losses.append(loss)
            self._names.append(batch.names)
        self._processes.average(self._gradients())
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        return self._agree(losses, norm, seconds, stop)

    def close(self) -> None:
        """No more updates come."""
        if isinstance(self._feed, Prefetch):
            self._feed.close()

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def explain(self, update: int, step: Step, last: str) -> str:
        """Why the run cannot go on after this step, in one line."""
        names = [name for part in self._processes.gather(self._suspects) for name in part]
        parts = ", ".join(f"{name} {value:.4g}" for name, value in step.parts.items())
        shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        return (
            f"update {update} gave loss {step.loss:.4g}{f' ({parts})' if parts else ''} and gradient norm "
            f"{step.norm:.4g} on {shown or 'samples without names'}; {last}; begin anew with a lower --lr "
            "or --precision float32"
        )

    def _gradients(self) -> list[Tensor]:
        """Of every parameter, zeros where the loss did not touch it: each process must bring the same to the mean."""
        if self._processes.count > 1:
            for parameter in self._parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _agree(self, losses: list[Loss], norm: Tensor, seconds: float, stop: bool) -> Step:
        """Means over slices and processes; the norm is of the mean gradient, so it is the same everywhere."""
        names = list(losses[0].parts)
        numbers = [[loss.total, *(loss.parts[name] for name in names)] for loss in losses]
        exact = torch.float32 if self._device.type == "mps" else torch.float64
        flat = [torch.as_tensor(n).detach().to(self._device, exact).reshape(()) for row in numbers for n in row]
        table = torch.stack([*flat, norm.detach().to(exact)]).tolist()
        rows = [table[i : i + 1 + len(names)] for i in range(0, len(flat), 1 + len(names))]
        self._suspects = self._bad([row[0] for row in rows], table[-1])
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        first = seconds if self._processes.is_first else 0.0
        *sums, seconds, stops = self._processes.sum([*means, first, float(stop)], self._device)
        loss, *parts = (value / self._processes.count for value in sums)
        return Step(loss, dict(zip(names, parts, strict=True)), table[-1], seconds, stops > 0)

    def _bad(self, losses: list[float], norm: float) -> tuple[str, ...]:
        """Names of the samples whose slice's loss is not finite; where only the gradient is not, of all."""
        bad = [names for loss, names in zip(losses, self._names, strict=True) if not math.isfinite(loss)]
        if not bad and not math.isfinite(norm):
            bad = self._names
        return tuple(name for names in bad for name in names)
