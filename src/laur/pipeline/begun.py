"""A given picture on its way through an Engine: its latent, what of it is kept at each step, and its own pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from laur.input.fit import filled_up, fit
from laur.input.inpaint import HALF, feathered

if TYPE_CHECKING:
    from laur.core.plan import Plan
    from laur.core.pytorch.encoder import Encoded
    from laur.core.sampler.table import SamplerTable, StepCoefficients
    from laur.input.image import InputPicture
    from laur.pipeline.library import Library


@dataclass(frozen=True, slots=True)
class Known:
    """A picture at the size that is drawn: its pixels and its latent."""

    pixels: np.ndarray
    """(H, W, 3) uint8, of the plan's size."""
    encoded: Encoded

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.pixels.nbytes + self.encoded.nbytes


def known(picture: InputPicture, plan: Plan, step: int, encode: Callable[[np.ndarray], Encoded]) -> Known:
    """Bring a picture to a plan's size and encode it; `step` is the autoencoder's."""
    pixels = fit(picture, picture.size, plan.width, plan.height)
    _, high, wide = plan.latent_shape
    return Known(pixels, encode(filled_up(pixels, wide * step, high * step)))


class Begun:
    """What a Running needs of its picture. Draws of stage 0 come in diffusers' order: the posterior of the picture,
    the starting noise, the posterior of the masked picture (which a network of four channels has no use for)."""

    def __init__(self, plan: Plan, table: SamplerTable, library: Library, draw: Callable[[int], Tensor]) -> None:
        """`draw` gives the draws of stage 0. Errors: NotFoundError, NumericalError."""
        begin = plan.begin
        assert begin is not None
        picture = library.inputs.get(begin.image)
        self._known = library.known(plan, picture)
        drawn = self._known.encoded.deviation is not None
        self._clean = self._known.encoded.latent(draw(0) if drawn else None)
        self._noise = draw(int(drawn))
        self._begin = begin
        self.draws = 1 + int(drawn) * (1 if begin.mask is None else 2)
        """How many draws of stage 0 come before those of the steps."""
        first = table.steps[0]
        self.latent = self._noise * table.initial_scale if begin.from_noise else self._noised(first)
        self._mask: np.ndarray | None = None
        if begin.mask is not None:
            self._take_mask(library.inputs.get(begin.mask, "mask"), picture, plan, library)

    def blend(self, latent: Tensor, after: StepCoefficients | None) -> Tensor:
        """The latent of a step with the kept part as the picture has it at the next one; None is the end."""
        if self._mask is None:
            return latent
        kept = self._clean if after is None else self._noised(after)
        return (1 - self._latent_mask) * kept + self._latent_mask * latent

    def finish(self, pixels: np.ndarray) -> np.ndarray:
        """The drawn pixels (H, W, 3) uint8 with the kept ones in their place, where the plan says so."""
        if self._mask is None or not self._begin.paste_back:
            return pixels
        share = feathered(self._mask, self._begin.mask_blur)[:, :, None]
        mixed = pixels * share + self._known.pixels * (1 - share)
        return mixed.round().astype(np.uint8)

    def _noised(self, step: StepCoefficients) -> Tensor:
        return step.alpha * self._clean + step.sigma * self._noise

    def _take_mask(self, mask: InputPicture, picture: InputPicture, plan: Plan, library: Library) -> None:
        grey = fit(mask, picture.size, plan.width, plan.height)
        self._mask = grey >= HALF
        _, high, wide = plan.latent_shape
        step = library.weights(plan.stages[0].checkpoint).info.downscale
        full = filled_up(grey, wide * step, high * step) >= HALF
        cells = torch.from_numpy(full[::step, ::step].astype(np.float32))  # the first pixel of each, as in diffusers
        self._latent_mask = cells[None].to(self._clean.device)
