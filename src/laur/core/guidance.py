"""Guidance: from a plan's own rows to its one prediction.

pred = sum_i m_i · w_i · row_i;   classifier-free guidance (arXiv 2207.12598) is uncond + g · (cond - uncond)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from laur.core.plan import Combine

if TYPE_CHECKING:
    from torch import Tensor


def classifier_free(guidance: float, rescale: float = 0.0) -> Combine:
    """Weights of the rows (unconditional, conditional) at scale g, or of the conditional row alone where g <= 1.

    Args:
        guidance: g; up to 1 there is no unconditional row, and a negative prompt has no effect.
        rescale: how far to pull the result to the conditional row's standard deviation, 0 … 1.
    """
    if guidance <= 1.0:
        return Combine(weights=(1.0,))
    return Combine(weights=(1.0 - guidance, guidance), rescale=rescale, reference=1)


def combine(predictions: Tensor, combine: Combine, shares: Tensor | None = None) -> Tensor:
    """The rows' predictions (R, C, h, w) to one, (C, h, w) float32; `shares` (R, 1, h, w): how much each counts where.

    Rows are added one after the other, so that the result does not depend on how many pictures share the batch.
    """
    if len(predictions) != len(combine.weights):
        raise ValueError(f"{len(predictions)} rows for {len(combine.weights)} weights")
    rows = predictions.float()
    if shares is not None:
        rows = rows * shares
    total = rows[0] * combine.weights[0]
    for row, weight in zip(rows[1:], combine.weights[1:], strict=True):
        total.add_(row, alpha=weight)
    if not combine.rescale:
        return total
    # with regions there is a reference row in each, and together they are one picture
    stride = len(rows) // max(1, len(set(combine.regions)))
    reference = rows[combine.reference % stride :: stride].sum(0)
    return _rescaled(total, reference, combine.rescale)


def _rescaled(total: Tensor, reference: Tensor, rescale: float) -> Tensor:
    """Guidance rescale (arXiv 2305.08891, section 3.4): strong guidance inflates the deviation; take it back."""
    factor = reference.std() / total.std().clamp_min(1e-12)
    return total * (rescale * factor + (1.0 - rescale))
