"""What a UNet and a decoder look like to the rest of the house, fast or plain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from laur.core.pytorch.cpu.weights import Weights
from laur.core.pytorch.rows.factors import RowSet
from laur.core.pytorch.rows.plain import PlainRows
from laur.core.pytorch.rows.texts import PlainTexts
from laur.utils.budget import Budget


class Network(Protocol):
    """A UNet on stacked rows. Row i of the result depends on row i alone."""

    dtype: torch.dtype
    """What it computes in."""

    @property
    def per_row(self) -> frozenset[str]:
        """Names of the layers that may differ between rows; an adapter that changes others must be merged."""
        ...

    def share(self, budget: Budget) -> None:
        """Take the keys and values of texts out of a budget that others share."""
        ...

    def rest(self) -> None:
        """Give back what the budget counts, keys and values of texts; the next call computes them anew."""
        ...

    def parameters(self) -> Iterable[Tensor]:
        """The weights as they are now, before any packing."""
        ...

    def __call__(
        self,
        sample: Tensor,
        timesteps: Tensor,
        context: Tensor | Sequence[Tensor],
        *,
        context_mask: Tensor | None = None,
        added_cond: Mapping[str, Tensor] | None = None,
        timestep_cond: Tensor | None = None,
        residuals: Sequence[Tensor] | None = None,
        adapters: Sequence[RowSet | None] | None = None,
    ) -> Tensor:
        """Predict for N rows.

        Args:
            sample: (N, C, h, w).
            timesteps: (N,), in units of the training schedule.
            context: (N, L, D) text states, or N of (L, D).
            context_mask: (N, L) bool, True where attended.
            added_cond: SDXL's `text_embeds` (N, P) and `time_ids` (N, 6).
            timestep_cond: (N, W), the guidance embedding of a distilled LCM.
            residuals: one per skip connection, then one for the middle block; each (N, …).
            adapters: what each of N rows adds to layers of `per_row`; rows that share a set should lie together.

        Returns:
            (N, C, h, w) in the dtype of `sample`.
        """
        ...

    def load(self, changed: Mapping[str, Tensor]) -> None:
        """Make the weights those of the module it was made from, with `changed` put in.

        What an earlier call changed and this one does not name goes back, bit for bit; `load({})` restores
        everything. Only what differs from before is packed again. Raises MismatchError for an unknown name or shape.
        """
        ...


class PlainUNet:
    """diffusers' own forward behind the interface: for accelerators, and for networks with unknown blocks."""

    def __init__(self, unet: nn.Module) -> None:
        self._weights = Weights(unet)
        self.dtype = next(unet.parameters()).dtype
        self._rows = PlainRows(self._weights.module)
        self._texts = PlainTexts(self._weights.module)

    @property
    def per_row(self) -> frozenset[str]:
        """See Network."""
        return self._rows.names

    def share(self, budget: Budget) -> None:
        """See Network."""
        self._texts.cache.share(budget)

    def rest(self) -> None:
        """See Network."""
        self._texts.cache.clear()

    def parameters(self) -> Iterable[Tensor]:
        """See Network."""
        return self._weights.module.parameters()

    @property
    def module(self) -> nn.Module:
        """What runs: hooks may be put on it, weights only through `load`."""
        return self._weights.module

    def __call__(
        self,
        sample: Tensor,
        timesteps: Tensor,
        context: Tensor | Sequence[Tensor],
        *,
        context_mask: Tensor | None = None,
        added_cond: Mapping[str, Tensor] | None = None,
        timestep_cond: Tensor | None = None,
        residuals: Sequence[Tensor] | None = None,
        adapters: Sequence[RowSet | None] | None = None,
    ) -> Tensor:
        """See Network."""
        unet, dtype = cast("Any", self._weights.module), self.dtype
        states = context if isinstance(context, Tensor) else torch.stack(list(context))
        extra: dict[str, Any] = {}
        if residuals is not None:
            *skips, middle = (residual.to(dtype) for residual in _counted(residuals, _skips(unet)))
            extra = {"down_block_additional_residuals": tuple(skips), "mid_block_additional_residual": middle}
        with (
            torch.no_grad(),
            self._texts.given(states.to(dtype), adapters) as done,
            self._rows.applied(adapters, done),
        ):
            y = unet(
                sample.to(dtype),
                timesteps,
                states.to(dtype),
                timestep_cond=None if timestep_cond is None else timestep_cond.to(dtype),
                encoder_attention_mask=context_mask,
                added_cond_kwargs=None if added_cond is None else dict(added_cond),
                return_dict=False,
                **extra,
            )[0]
        return y.to(sample.dtype)

    def load(self, changed: Mapping[str, Tensor]) -> None:
        """See Network."""
        if self._weights.load(changed):
            self._texts.cache.clear()


def _skips(unet: Any) -> int:
    """How many skip connections diffusers' U-Net has: the first convolution's, each layer's, each downsampler's."""
    return 1 + sum(len(block.resnets) + len(block.downsamplers or ()) for block in unet.down_blocks)


def _counted(residuals: Sequence[Tensor], skips: int) -> Sequence[Tensor]:
    """diffusers would leave out in silence what is too much or too little."""
    if len(residuals) != skips + 1:
        raise ValueError(f"{len(residuals)} residuals for {skips} skip connections and the middle block")
    return residuals
