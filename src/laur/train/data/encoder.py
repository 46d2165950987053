"""Pictures to latents, by a checkpoint's own autoencoder; captions to stored text states, by its text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laur.core.errors import NumericalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from laur.pipeline.device import Placement
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.conditions import PlainText

BATCH_PIXELS = 8 * 256 * 256
"""Pixels that are encoded together: enough to be quick, little enough for any machine."""


class LatentEncoder:
    """Means of the encoder's distribution, shifted and scaled as the denoiser sees them."""

    def __init__(self, loaded: LoadedCheckpoint, place: Placement) -> None:
        """Never in float16, in which SDXL's own autoencoder overflows."""
        from laur.pipeline.library import placed_copy

        if place.dtype is torch.float16:
            place = replace(place, dtype=torch.float32)
        self._vae: Any = placed_copy(loaded.vae(), "vae", {}, place)
        self._place, self._info = place, loaded.info

    @staticmethod
    def together(height: int, width: int) -> int:
        """How many pictures of that size are encoded at once."""
        return max(1, BATCH_PIXELS // (height * width))

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float16]]:
        """(H, W, 3) each, all of one size, to (C, h, w) each. Raises NumericalError where they are not finite."""
        count = self.together(*pictures[0].shape[:2])
        found: list[NDArray[np.float16]] = []
        for start in range(0, len(pictures), count):
            stack = np.stack(pictures[start : start + count])
            pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1
            layout = torch.channels_last if self._place.channels_last else torch.contiguous_format
            encoded = self._vae.encode(pixels.to(self._place.device, self._place.dtype, memory_format=layout))
            mean = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
            scaled = (mean.float() - self._info.latent_shift) * self._info.latent_scale
            latents = scaled.contiguous().cpu().numpy().astype(np.float16)
            if not np.isfinite(latents).all():
                raise NumericalError(
                    f"the autoencoder of {self._info.name} gives latents that are not finite; its weights are damaged, "
                    "or made for another scale: try it with `laur generate --image`"
                )
            found += list(latents)
        return found


def encode_captions(
    text: PlainText, captions: Sequence[str]
) -> tuple[tuple[NDArray[np.float16], ...], tuple[NDArray[np.float16], ...]]:
    """States (L, D) and pooled (P,) of each caption."""
    pairs = [text(caption) for caption in captions]
    states = tuple(context.cpu().numpy().astype(np.float16) for context, _ in pairs)
    return states, tuple(pooled.cpu().numpy().astype(np.float16) for _, pooled in pairs if pooled is not None)
