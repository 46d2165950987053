"""Group normalisation of channels-last maps.

PyTorch's own takes 240 us for 224 channels at 16x16 on one Zen 4 core, because below 1024 pixels it walks each group's
few channels alone. Statistics per channel by the batch-norm kernels, joined per group, then applied by those kernels:
60 us. The time embedding joins here at no cost: adding a constant to a channel moves its mean and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from laur.core.pytorch.cpu.weights import Packed, Weights

_PIXELS_FOR_OWN_KERNEL = 1024
"""From here on PyTorch's group norm goes over all channels at once and is fast."""


class GroupNormSiLU(Packed):
    """silu(norm(x + shift)), or without the activation."""

    def __init__(self, weights: Weights, name: str, norm: nn.GroupNorm, *, silu: bool = True) -> None:
        self._weights, self._name = weights, name
        self._groups, self._eps, self._silu = norm.num_groups, norm.eps, silu
        self._affine: tuple[Tensor, Tensor] | None = None
        # only their dtype matters: the kernel then gives its statistics in float32; what it writes is never read
        self._unread = (torch.zeros(norm.num_channels), torch.ones(norm.num_channels))
        width = norm.num_channels // norm.num_groups
        self._average = torch.full((width, width), 1 / width)
        weights.watch(self, (f"{name}.weight", f"{name}.bias"))

    def forget(self) -> None:
        """Read weight and bias again at the next call."""
        self._affine = None

    def __call__(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """(N, C, H, W) channels last; `shift` is (N, C). May overwrite x where `shift` is given.

        Row by row: PyTorch's kernel sums in an order that depends on the batch, and bfloat16 rounding in the layers
        behind it turns the last bit's difference into its full error. It is the only operator here that does so.
        """
        if self._affine is None:
            weight, bias = (self._weights[f"{self._name}.{leaf}"].float() for leaf in ("weight", "bias"))
            self._affine = weight, bias
        normed = self._small if x.shape[2] * x.shape[3] < _PIXELS_FOR_OWN_KERNEL else self._large
        if x.shape[0] == 1:
            y = normed(x, None if shift is None else shift[0])
            return functional.silu(y, inplace=True) if self._silu else y
        rows = (normed(x[i : i + 1], None if shift is None else shift[i]) for i in range(x.shape[0]))
        if not self._silu:
            return torch.cat(list(rows))
        y = torch.empty_like(x)
        for i, row in enumerate(rows):
            torch.ops.aten.silu.out(row, out=y[i : i + 1])
        return y

    def _large(self, x: Tensor, shift: Tensor | None) -> Tensor:
        assert self._affine is not None
        x = x if shift is None else x.add_(shift.to(x.dtype)[:, None, None])
        weight, bias = self._affine
        return torch.group_norm(x, self._groups, weight, bias, self._eps, False)

    def _small(self, x: Tensor, shift: Tensor | None) -> Tensor:
        assert self._affine is not None
        mean, variance = torch.batch_norm_update_stats(x, *self._unread, 0.0)
        if shift is not None:
            mean = mean + shift
        mean = mean.view(self._groups, -1)
        # a product with a matrix of 1/n is the mean over the group and its repetition in one operator; the variance is
        # taken around the group's mean, so that nothing cancels
        centre = torch.mm(mean, self._average)
        offset = mean - centre
        spread = torch.mm(torch.addcmul(variance.view(self._groups, -1), offset, offset), self._average)
        centre = centre.view(-1) if shift is None else centre.view(-1) - shift
        weight, bias = self._affine
        return torch.native_batch_norm(x, weight, bias, centre, spread.view(-1), False, 0.0, self._eps)[0]
