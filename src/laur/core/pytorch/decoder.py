"""The PyTorch decoder: latents to pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from laur.core.errors import NumericalError


class TorchDecoder:
    """An autoencoder that is on `device` and in `dtype`, with its `decode` in some execution form."""

    def __init__(
        self,
        vae: Any,
        decode: Callable[[Tensor], Tensor],
        *,
        scale: float,
        shift: float,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool = False,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.vae = vae
        self._decode = decode
        self._scale = scale
        self._shift = shift
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) float32 latents to (N, 8h, 8w, 3) uint8 pixels on the CPU.

        Raises NumericalError where NaN or infinity comes out: autoencoders may overflow in half precision.

        One picture at a time: the decoder is bound by arithmetic, not by launches, and its activations are the
        largest of the whole run.
        """
        return torch.stack([self._one(latent[None]) for latent in latents])

    def _one(self, latent: Tensor) -> Tensor:
        z = (latent / self._scale + self._shift).to(self.device, self.dtype, memory_format=self._format)
        pixels = self._decode(z)
        if not bool(pixels.isfinite().all()):
            raise NumericalError(f"the decoder gave NaN or infinity in {str(self.dtype)[6:]}; try --dtype float32")
        return to_uint8(pixels)


def to_uint8(pixels: Tensor) -> Tensor:
    """(1, 3, H, W) in -1 … 1 to (H, W, 3) uint8 on the CPU, rounded as diffusers rounds."""
    return (pixels[0].float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu()
