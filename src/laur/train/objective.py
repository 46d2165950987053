"""What a run minimises. The loop knows objectives by this protocol alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from laur.train.batch import Batch
    from laur.train.draws import Draws


@dataclass(frozen=True, slots=True)
class Loss:
    """The outcome of a forward pass."""

    total: Tensor
    """Scalar: the mean over the batch, to be differentiated."""
    parts: Mapping[str, float | Tensor] = field(default_factory=dict[str, "float | Tensor"])
    """Named means over the batch, for the log."""


class Objective(Protocol):
    """Networks and the loss over them. It draws nothing at random but from `draws`, and keeps no other state than
    `state_dict` gives."""

    model: nn.Module
    """What is trained: the parameters of it that require a gradient, by their names. `loss` calls it through
    `self.model` each time, as the loop may put a wrapped (distributed, compiled) form there."""

    held_out: bool
    """Whether the fold of concepts for measuring is left out (`data.hold_out`): of sets of its own too, and the result
    says so."""

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """Of a batch or of any slice of it: a mean over samples, so that slices of one size average to the whole."""
        ...

    def updated(self, update: int) -> None:
        """Called after each optimiser step, with its number: targets follow here."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What `updated` keeps (target weights), beside the model's own parameters."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take `state_dict` back."""
        ...

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Path:
        """Write what was trained, with `weights` (by parameter name: the run's average) in place of the model's.

        Whole and checked by loading it back, or not at all; returns the adapter's file or the checkpoint's folder.
        """
        ...
