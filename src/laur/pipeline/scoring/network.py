"""Two towers that meet in one space: a small CNN for pictures, a small MLP over MiniLM's mean state for prompts.

Contrastive as CLIP is (Radford et al. 2021, arXiv 2103.00020, figure 3), at a five-hundredth of its size.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 64
"""Pixels a side that pictures are brought to."""
WIDTH = 128
"""Of the space that both meet in."""
TEXT = 384
"""Of a state of MiniLM-L6."""
_CHANNELS = (32, 64, 128, 160)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; halves the picture where channels change."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        stride = 1 if given == made else 2
        self.first = nn.Conv2d(given, made, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(made)
        self.second = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(made)
        self.shortcut = nn.Identity() if given == made else nn.Conv2d(given, made, 1, bias=False)
        self._pool = stride == 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, given, h, w) -> (n, made, h', w')."""
        y = functional.silu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        beside = self.shortcut(functional.avg_pool2d(x, 2) if self._pool else x)
        return functional.silu(y + beside)


class ImageTower(nn.Module):
    """(n, 3, 64, 64) in [-1, 1] -> (n, 128) of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _CHANNELS[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(_CHANNELS[0])
        self.blocks = nn.Sequential(*(Block(given, made) for given, made in pairwise(_CHANNELS)))
        self.head = nn.Linear(2 * _CHANNELS[-1], WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.blocks(functional.silu(self.stem_norm(self.stem(x))))
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return functional.normalize(self.head(pooled).float(), dim=1)


class TextTower(nn.Module):
    """(n, 384), MiniLM's mean states -> (n, 128) of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(TEXT)
        self.first = nn.Linear(TEXT, 256)
        self.second = nn.Linear(256, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        made = self.second(functional.silu(self.first(self.norm(x))))
        return functional.normalize(made.float(), dim=1)


class Towers(nn.Module):
    """Both, and how sharply they are compared in training."""

    def __init__(self) -> None:
        super().__init__()
        self.image = ImageTower()
        self.text = TextTower()
        self.sharpness = nn.Parameter(torch.tensor(2.66))
        """log of 1 / temperature, as CLIP begins."""


def prepared(pixels: Tensor) -> Tensor:
    """(n, 3, 64, 64) in [-1, 1] of uint8 pictures (n, H, W, 3)."""
    x = pixels.permute(0, 3, 1, 2).float()
    if x.shape[2:] != (SIDE, SIDE):
        x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    return x / 127.5 - 1
