"""Networks of any family seen as training sees them: predictions, clean latents, noise, and the consistency function.

Symbols as in docs/method.md: x_t = alpha_t z + sigma_t eps, v = alpha_t eps - sigma_t z.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laur.core.boundary import SIGMA_DATA, TIMESTEP_SCALING
from laur.core.errors import TrainingError
from laur.core.pytorch.denoiser import guidance_embedding

if TYPE_CHECKING:
    from laur.core.checkpoint import Checkpoint
    from laur.train.batch import Conditions


def predict(unet: Any, x: Tensor, t: Tensor, conditions: Conditions, w: Tensor | None = None) -> Tensor:
    """What diffusers' UNet predicts, (B, C, h, w) float32.

    x (B, C, h, w); t (B,) timesteps; w (B,) the paper's guidance scale, for networks that are told one (those with
    `time_cond_proj_dim`; others ignore it).
    """
    told = None
    width = unet.config.get("time_cond_proj_dim")
    if width is not None:
        scales = torch.zeros(len(x)) if w is None else w.detach().float().cpu()
        told = guidance_embedding(scales, width).to(x.device, x.dtype)
    added = None
    if conditions.pooled is not None and conditions.size_ids is not None:
        added = {"text_embeds": conditions.pooled, "time_ids": conditions.size_ids}
    prediction: Tensor = unet(
        x.contiguous(memory_format=torch.channels_last),
        t,
        conditions.context,
        timestep_cond=told,
        encoder_attention_mask=conditions.context_mask,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    return prediction.float()


class Diffusion:
    """A checkpoint's noise schedule and prediction type, as tensors on one device."""

    def __init__(self, info: Checkpoint, device: torch.device) -> None:
        """Errors: TrainingError where the prediction says nothing at the last timestep (epsilon at pure noise)."""
        schedule = info.schedule
        bars = torch.from_numpy(schedule.alphas_cumprod.copy())
        self.device = device
        self.prediction = info.prediction
        self.timesteps = schedule.num_train_timesteps
        if self.prediction == "epsilon" and schedule.zero_terminal_snr:
            raise TrainingError(
                "this checkpoint predicts epsilon, which at zero terminal SNR says nothing of a picture"
            )
        self._alpha = bars.sqrt().float().to(device)
        self._sigma = (1 - bars).sqrt().float().to(device)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, (B, 1, 1, 1) each."""
        return self._alpha[t][:, None, None, None], self._sigma[t][:, None, None, None]

    def noised(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (B, C, h, w)."""
        alpha, sigma = self.levels(t)
        return alpha * z + sigma * noise

    def target(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should say of x_t."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return z
        alpha, sigma = self.levels(t)
        return alpha * noise - sigma * z

    def split(self, prediction: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The clean latent and the noise that a prediction means."""
        alpha, sigma = self.levels(t)
        if self.prediction == "epsilon":
            return (x - sigma * prediction) / alpha, prediction
        if self.prediction == "sample":
            return prediction, (x - alpha * prediction) / sigma
        return alpha * x - sigma * prediction, alpha * prediction + sigma * x

    def ddim(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Where a DDIM step (arXiv 2010.02502, eq. 12, eta 0) arrives at timestep t."""
        return self.noised(x0, noise, t)

    def consistency(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t) = c_skip x + c_out x0, as `laur.core.boundary` has it."""
        scaled = (t.float() * TIMESTEP_SCALING)[:, None, None, None]
        total = scaled**2 + SIGMA_DATA**2
        x0, _ = self.split(prediction, x, t)
        return SIGMA_DATA**2 / total * x + scaled / total.sqrt() * x0

    def snr(self, t: Tensor) -> Tensor:
        """alpha² / sigma², (B,)."""
        return self._alpha[t] ** 2 / self._sigma[t] ** 2
