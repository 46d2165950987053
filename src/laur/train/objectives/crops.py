"""Squares cut out of pictures or latents at drawn places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from laur.train.draws import Draws


def cropped(images: Tensor, draws: Draws, side: int, purpose: str) -> Tensor:
    """(B, C, side, side) of (B, C, H, W), by draws of this purpose; whole where they are no larger or `side` is 0."""
    height, width = images.shape[2:]
    if not side or min(height, width) <= side:
        return images
    tops = draws.integers(f"{purpose} from the top", 0, height - side + 1).tolist()
    lefts = draws.integers(f"{purpose} from the left", 0, width - side + 1).tolist()
    return torch.stack([x[:, y : y + side, z : z + side] for x, y, z in zip(images, tops, lefts, strict=True)])
