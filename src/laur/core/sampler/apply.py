"""One step of a table on tensors. Float32 throughout: low precision lives only inside the networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laur.core.sampler.table import StepCoefficients

if TYPE_CHECKING:
    from torch import Tensor


def advance(
    step: StepCoefficients, x: Tensor, prediction: Tensor, noise: Tensor | None, x0_prev: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Take `step` from the latent `x`.

    Args:
        step: a row of a SamplerTable.
        x: the latent, any shape; variance preserving.
        prediction: the network's (combined) prediction at `x` and the step's timestep, of x's shape.
        noise: a standard normal draw, of x's shape; needed where the step's `c` is not zero.
        x0_prev: the x0 of the step before; None at the start of a stage, where x0 takes its place and a
            second-order step becomes first-order.

    Returns:
        The next latent and the x0 predicted, float32.
    """
    x, prediction = x.float(), prediction.float()
    x0 = (x * step.p).add_(prediction, alpha=step.q)
    after = (x * step.a).add_(prediction, alpha=step.b)
    if step.c:
        if noise is None:
            raise ValueError(f"the step at timestep {step.timestep:g} needs a draw of noise")
        after.add_(noise.float(), alpha=step.c)
    if step.d:
        after.add_(x0 if x0_prev is None else x0_prev.float(), alpha=step.d)
    return after, x0
