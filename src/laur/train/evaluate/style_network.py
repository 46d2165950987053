"""A small network that tells a picture's style and not what it shows.

Style as the statistics of feature maps, taken over the whole picture (Gatys et al. 2016, arXiv 1508.06576; means and
deviations as in Li et al. 2017, arXiv 1701.01036): the head sees the mean and the deviation of each channel at four
depths, and never where in the picture something is. Nothing of it comes from another network, and no training loss
uses it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from laur.pipeline.scoring.network import Block

SIDE = 128
"""Pixels a side that pictures are brought to: strokes, hatching and grids are still there."""
CHANNELS = (16, 32, 64, 96)


class StyleNetwork(nn.Module):
    """(n, 3, 128, 128) in [-1, 1] -> (n, classes) logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS[0], 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(CHANNELS[0])
        self.blocks = nn.ModuleList(Block(given, made) for given, made in pairwise(CHANNELS))
        self.norm = nn.BatchNorm1d(2 * sum(CHANNELS))
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(2 * sum(CHANNELS), classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = functional.silu(self.stem_norm(self.stem(x)))
        found = moments(x)
        for block in self.blocks:
            x = block(x)
            found += moments(x)
        return self.head(self.dropout(self.norm(torch.cat(found, 1)))).float()


def moments(x: Tensor) -> list[Tensor]:
    """Mean and deviation of each channel over the picture, each (n, C) float32."""
    flat = x.float().flatten(2)
    return [flat.mean(2), (flat.var(2) + 1e-5).sqrt()]


def prepared(pixels: Tensor) -> Tensor:
    """(n, 3, 128, 128) in [-1, 1] of uint8 pictures (n, H, W, 3)."""
    x = pixels.permute(0, 3, 1, 2).float()
    if x.shape[2:] != (SIDE, SIDE):
        x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    return x / 127.5 - 1
