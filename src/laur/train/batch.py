"""What an update sees: a batch of latents with their conditions, and the keys that its random draws hang on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the network is told, for B samples. None where the family has no such input."""

    context: Tensor
    """(B, L, D) float32: text states, as `laur.input` encodes a prompt of one window."""
    context_mask: Tensor | None = None
    """(B, L) bool: True where a state counts."""
    pooled: Tensor | None = None
    """(B, P) float32: SDXL's pooled text."""
    size_ids: Tensor | None = None
    """(B, 6) float32: SDXL's original size, crop and target size (5 for the refiner)."""

    def rows(self, places: Tensor) -> Conditions:
        """Those of some samples, by place (B',) int64."""

        def some(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[places]

        return Conditions(self.context[places], some(self.context_mask), some(self.pooled), some(self.size_ids))

    def where(self, mask: Tensor, other: Conditions) -> Conditions:
        """`other` where mask (B,) bool is True; its tensors may have one row for all. Size ids stay."""
        context = other.context.expand_as(self.context).where(mask[:, None, None], self.context)
        keep = self.context_mask
        if keep is not None and other.context_mask is not None:
            keep = other.context_mask.expand_as(keep).where(mask[:, None], keep)
        pooled = self.pooled
        if pooled is not None and other.pooled is not None:
            pooled = other.pooled.expand_as(pooled).where(mask[:, None], pooled)
        return Conditions(context, keep, pooled, self.size_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples of one latent shape; a slice of an update's global batch, or all of it."""

    update: int
    """Number of the update, from 0."""
    keys: Tensor
    """(B,) int64, CPU: each sample's draw number, update · global batch + place in it; never used twice in a run."""
    latents: Tensor
    """(B, C, h, w) float32: scaled as the network sees them. For the autoencoder's training: pictures (B, 3, H, W) in
    [-1, 1]."""
    conditions: Conditions | None
    """None in the autoencoder's training."""
    pictures: Tensor | None = None
    """(B, 3, H, W) in [-1, 1], where the objective asks for them beside the latents."""
    noise: Tensor | None = None
    """(B, C, h, w) float32, where the objective asks for it: what the model began with when it drew these pictures."""
    guidance: float | None = None
    """With which the model drew them, where it drew as a teacher."""
    names: tuple[str, ...] = ()
    """The samples' own names, for messages."""

    def __len__(self) -> int:
        return int(self.latents.shape[0])
