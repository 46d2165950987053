"""y += B (A x) over the rows of a batch, in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from laur.core.pytorch.rows.batch import Group, RowBatch
from laur.core.pytorch.rows.factors import Fused
from laur.core.pytorch.rows.kernel import add_low_rank, faster

_FEW_RUNS = 2


def add_linear(y: Tensor, x: Tensor, groups: Sequence[Group]) -> Tensor:
    """y (N, L, out), contiguous, plus each row's own product of x (N, L, in). Returns y.

    Rows of one run are joined along L, so that a set shared by many rows is read once.
    """
    n, length, inner = x.shape
    for group in groups:
        runs = group.down.shape[0]
        part = x if (group.start, group.stop) == (0, n) else x[group.start : group.stop]
        tokens = part.reshape(runs, (group.stop - group.start) // runs * length, inner)
        target = y[group.start : group.stop].view(runs, tokens.shape[1], y.shape[2])
        if target.is_cuda and faster((*tokens.shape, y.shape[2], group.down.shape[2]), y.dtype):
            add_low_rank(target, tokens.contiguous(), group.down, group.up, group.ranks)
        else:
            target.baddbmm_(torch.bmm(tokens, group.down), group.up)
    return y


def add_conv(
    y: Tensor,
    x: Tensor,
    batch: RowBatch,
    name: str,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """y (N, out, H', W') plus each row's own convolution of x (N, in, H, W). Returns y.

    Run by run where runs are few or calls are cheap (a CPU); else one batched product over the maps' patches.
    """
    if x.is_cuda and len(batch.runs) > _FEW_RUNS:
        kernel = next(run.rows.layers[name].down.shape[2:] for run in batch.runs if name in run.rows.layers)
        patches = functional.unfold(x, kernel, dilation, padding, stride).transpose(1, 2)
        groups = batch.groups(Fused.single(name, y.shape[1]))
        delta = add_linear(y.new_zeros(y.shape[0], patches.shape[1], y.shape[1]), patches, groups)
        return y.add_(delta.transpose(1, 2).reshape(y.shape))
    for run in batch.runs:
        factors = run.rows.layers.get(name)
        if factors is not None:
            part = x[run.start : run.stop]
            low = functional.conv2d(part, factors.down, None, stride, padding, dilation)
            y[run.start : run.stop] += functional.conv2d(low, factors.up[:, :, None, None])
    return y


def add_pixels(y: Tensor, x: Tensor, batch: RowBatch, fused: Fused) -> Tensor:
    """A 1x1 convolution on maps: y (N, out, H, W) plus the product of x (N, in, H, W). Returns y."""
    n, _, height, width = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(n, height * width, x.shape[1])
    delta = add_linear(y.new_zeros(n, height * width, y.shape[1]), tokens, batch.groups(fused))
    return y.add_(delta.view(n, height, width, -1).permute(0, 3, 1, 2))
