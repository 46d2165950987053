"""The average of the weights over a run, which draws better than the last weights do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def decay_at(updates: int, decay: float) -> float:
    """min(decay, (1 + n) / (10 + n)): short at first, so that the random beginning is soon forgotten."""
    return min(decay, (1 + updates) / (10 + updates))


class Average:
    """Exponential moving average of parameters, in float32, on their device.

    Polyak averaging with a warm-up; in half precision the small steps at a decay of 0.9995 would round to nothing.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        """`decay` 0 follows the parameters exactly and takes no memory."""
        self.decay = decay
        self._parameters = dict(parameters)
        self._kept: dict[str, Tensor] = {}
        if decay:
            self._kept = {name: tensor.detach().float().clone() for name, tensor in parameters.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Follow the parameters; `updates` optimiser steps have been made, this one included."""
        if self._kept:
            kept, now = list(self._kept.values()), [self._parameters[name].detach().float() for name in self._kept]
            torch._foreach_lerp_(kept, now, 1 - decay_at(updates, self.decay))  # pyright: ignore[reportPrivateUsage]

    def weights(self) -> dict[str, Tensor]:
        """The average by parameter name; of decay 0 the parameters themselves."""
        return dict(self._kept) if self._kept else {name: p.detach() for name, p in self._parameters.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` takes back."""
        return dict(self._kept)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        for name, tensor in self._kept.items():
            tensor.copy_(state[name])
