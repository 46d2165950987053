"""Rows and the protocol of everything that turns them into predictions.

A Row is one sample of one denoiser call. One picture has one or more rows a step (classifier-free guidance, negative
prompts, regions); rows of many pictures go through the network together, and no row may influence another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from laur.core.pytorch.rows.factors import RowSet


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Row:
    """One sample of one denoiser call."""

    latent: Tensor
    """(C, h, w) float32, variance preserving: alpha_t · x0 + sigma_t · noise."""
    timestep: float
    """In units of the training schedule, 0 … T - 1."""
    context: Tensor
    """(L, D) text states."""
    context_mask: Tensor | None = None
    """(L,) bool, True where attended; None attends to all, as Stable Diffusion does."""
    pooled: Tensor | None = None
    """(P,) pooled text, SDXL only."""
    size_ids: tuple[float, ...] | None = None
    """SDXL's micro-conditioning: original height and width, crop top and left, then target height and width, or for the
    refiner the aesthetic score (SDXL report, arXiv 2307.01952, section 2.2)."""
    guidance_embedding: float | None = None
    """w of a guidance-distilled LCM: the classifier-free scale minus one (arXiv 2310.04378, section 4.2)."""
    residuals: tuple[Tensor, ...] | None = None
    """ControlNet or T2I residuals, one per skip connection, then one for the middle block."""
    image_tokens: Tensor | None = None
    """(M, D) image prompt states."""
    adapters: RowSet | None = None
    """What this row's adapters add to the network's layers, beyond what is merged into them."""


class Denoiser(Protocol):
    """A network that predicts noise, velocity or sample. Nothing else calls a UNet."""

    def predict(self, rows: Sequence[Row]) -> Tensor:
        """One prediction per row, (N, C, h, w) float32, on the device of the rows' latents.

        All rows have one latent shape and one context length; row i of the result depends on row i alone.
        """
        ...
