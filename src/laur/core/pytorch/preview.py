"""Previews without a decode: a linear map from latent to RGB, fitted for each autoencoder.

Latents of Stable Diffusion's autoencoders are close to a linear image of the downscaled picture (the observation behind
every "latent2rgb" preview). Rather than carry tables for known models, the map is fitted by least squares on synthetic
pictures that are run through the autoencoder's own encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class LatentToRGB:
    """rgb = latent · weight + bias, per latent pixel."""

    weight: Tensor
    """(C, 3) float32, CPU."""
    bias: Tensor
    """(3,)."""

    def __call__(self, x0: Tensor) -> Tensor:
        """(C, h, w) latent to (h, w, 3) uint8 on the CPU."""
        rgb = x0.float().cpu().permute(1, 2, 0) @ self.weight + self.bias
        return rgb.clamp(0, 1).mul(255).round().to(torch.uint8)


def fit(encode: Callable[[Tensor], Tensor], *, downscale: int, size: int = 128, pictures: int = 12) -> LatentToRGB:
    """Least squares over synthetic pictures.

    `encode` maps (1, 3, size, size) in -1 … 1 to a scaled latent (1, C, size / downscale, size / downscale).
    """
    generator = torch.Generator().manual_seed(0)
    latents: list[Tensor] = []
    colours: list[Tensor] = []
    for index in range(pictures):
        picture = _picture(size, index, generator)
        latent = encode(picture * 2 - 1)[0].float().cpu()
        small = torch.nn.functional.avg_pool2d(picture, downscale)[0]
        latents.append(latent.flatten(1).T)
        colours.append(small.flatten(1).T)
    x, y = torch.cat(latents), torch.cat(colours)
    ones = torch.ones(len(x), 1)
    design = torch.cat([x, ones], dim=1).double()
    # a small ridge: a random or degenerate autoencoder still gives a finite map
    ridge = 1e-4 * len(x) * torch.eye(design.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(design.T @ design + ridge, design.T @ y.double()).float()
    return LatentToRGB(solution[:-1], solution[-1])


def _picture(size: int, index: int, generator: torch.Generator) -> Tensor:
    """Smooth colour fields, and on every other one flat shapes on white: what photographs and icons are made of."""
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    field = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    if index % 2 == 0:
        return field
    picture = torch.ones(1, 3, size, size)
    for _ in range(4):
        top, left = torch.randint(0, size - size // 4, (2,), generator=generator).tolist()
        height, width = torch.randint(size // 8, size // 2, (2,), generator=generator).tolist()
        colour = torch.rand(3, 1, 1, generator=generator)
        picture[0, :, top : top + height, left : left + width] = colour
    return picture
