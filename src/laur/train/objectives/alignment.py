"""A second loss that shows a denoiser where to look: its middle shall tell what a trained network sees in the picture.

Representation alignment (REPA, arXiv 2410.06940, section 3) as it was carried over to U-Nets (U-REPA, arXiv 2503.18414:
the middle block, through a small projector, brought to the size of the features). What is aligned with is the last
feature of a frozen VGG-16 of the clean picture. The projector is trained and then thrown away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from laur.core.errors import TrainingError
from laur.train.objectives.vgg import BLOCKS, SHRINK, Vgg

NAME = "alignment"
"""Of the projector among the denoiser's modules while it is trained."""
WIDTH = 1024


class Alignment:
    """Joined to a denoiser, in place: its projector's parameters are then trained with it."""

    def __init__(self, unet: Any, weights: str, device: torch.device) -> None:
        self._seen: Tensor | None = None
        self._vgg = Vgg(weights).to(device)
        self.key = self._vgg.key
        channels = int(unet.config["block_out_channels"][-1])
        projector = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, BLOCKS[-1][-1], 1),
        )
        unet.add_module(NAME, projector.to(device))
        unet.mid_block.register_forward_hook(self._remember)
        self._projector = projector

    def loss(self, pictures: Tensor | None) -> Tensor:
        """1 - cosine between what the last forward pass saw and the pictures (B, 3, H, W) in [-1, 1]; a scalar mean."""
        if pictures is None:
            raise TrainingError("alignment needs the pictures; prepare the set with --pixels")
        assert self._seen is not None, "no forward pass went before"
        seen, self._seen = self._seen, None
        height, width = seen.shape[2:]
        with torch.no_grad():
            # no larger than it takes to have a feature for each place of the middle block
            small = functional.interpolate(pictures, (height * SHRINK, width * SHRINK), mode="area")
            goal = self._vgg.features(small)[-1].float()
        found = self._projector(seen).float()
        return (1 - functional.cosine_similarity(found, goal, dim=1)).mean()

    def _remember(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        del module, inputs
        self._seen = output
