"""The PyTorch encoder: pixels to latents, and what of them is drawn by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laur.core.errors import NumericalError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class Encoded:
    """What an autoencoder makes of one picture, in the checkpoint's units (scaled and shifted)."""

    mean: Tensor
    """(C, h, w) float32 on the encoder's device."""
    deviation: Tensor | None
    """Of the posterior, of the mean's shape; None where the encoder is deterministic (AutoencoderTiny)."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return self.mean.nbytes + (0 if self.deviation is None else self.deviation.nbytes)

    def latent(self, draw: Tensor | None) -> Tensor:
        """The latent of one draw from the posterior; `draw` is standard normal and only read where it is needed."""
        if self.deviation is None:
            return self.mean
        if draw is None:
            raise ValueError("the posterior of an autoencoder needs a draw")
        return self.mean + self.deviation * draw


class TorchEncoder:
    """An autoencoder that is on `device` and in `dtype`, for its encoder."""

    def __init__(
        self,
        vae: Any,
        scale: float,
        shift: float,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._vae = vae
        self._scale = scale
        self._shift = shift
        self._device = device
        self._dtype = dtype

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray) -> Encoded:
        """(H, W, 3) uint8, sides multiples of the autoencoder's step. One picture at a time: alone or in any company
        a picture has one latent.

        Raises NumericalError where NaN or infinity comes out.
        """
        # as diffusers: to 0 … 1, then to -1 … 1
        values = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        values = values.to(self._device, self._dtype)
        found = self._vae.encode(values, return_dict=False)[0]
        if hasattr(found, "logvar"):
            mean, deviation = found.mean.float(), torch.exp(0.5 * found.logvar.float())[0] * self._scale
        else:
            mean, deviation = found.float(), None
        mean = (mean[0] - self._shift) * self._scale
        if not bool(mean.isfinite().all()) or (deviation is not None and not bool(deviation.isfinite().all())):
            raise NumericalError(f"the encoder gave NaN or infinity in {str(self._dtype)[6:]}; try --dtype float32")
        return Encoded(mean.contiguous(), None if deviation is None else deviation.contiguous())
