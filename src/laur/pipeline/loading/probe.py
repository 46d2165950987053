"""Does a network predict noise or velocity? Ask it, where its file cannot tell.

A latent of pure noise over a flat grey picture is x_t = sigma_t · noise. A trained network then answers, but for what
its guess of the picture leaks, noise itself if it predicts epsilon, and v = alpha_t · noise - sigma_t · x0, so about
alpha_t · noise, if it predicts velocity (Salimans and Ho, arXiv 2202.00512, appendix D). So the slope of the answer on
the noise is 1 at every noise level for the one, and falls with alpha_t for the other. Networks that do neither, random
ones among them, are not decided upon.

A1111 asks with a constant latent at the last timestep and looks at the mean of the answer. Slopes at three levels
leave room to say "neither". Measured on the embedded `mini` at several contexts, a v network lies within 0.15 of
alpha_t and the same network rewritten to epsilon within 0.1 of 1; LEAK is wider than both.
"""

from __future__ import annotations

from typing import Any

from laur.core.schedule import NoiseSchedule

LEVELS = (0.7, 0.5, 0.3)
"""As fractions of the training schedule; alpha_t is about 0.3, 0.5 and 0.8 there."""
LEAK = 0.25
"""Farthest that every slope may lie from what a prediction type says, to be taken for it."""
SIDE = 32
"""Latent pixels a side."""


def probe_prediction(unet: Any, schedule: NoiseSchedule) -> str | None:
    """epsilon, v_prediction, or None where the answer is neither. `unet` is a UNet2DConditionModel without extras."""
    pairs = [_slope(unet, schedule, level) for level in LEVELS]
    distance = {
        "epsilon": max(abs(slope - 1.0) for _, slope in pairs),
        "v_prediction": max(abs(slope - alpha) for alpha, slope in pairs),
    }
    nearest = min(distance, key=lambda name: distance[name])
    return nearest if distance[nearest] < LEAK else None


def _slope(unet: Any, schedule: NoiseSchedule, level: float) -> tuple[float, float]:
    """alpha_t, and the least-squares slope of the network's answer on the noise, channel means taken out."""
    import torch

    timestep = int(level * schedule.num_train_timesteps)
    noise = torch.randn(1, unet.config.in_channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    context = torch.zeros(1, 77, unet.config.cross_attention_dim)
    with torch.inference_mode():
        latent = (schedule.sigma(timestep) * noise).to(unet.device, unet.dtype)
        answer = unet(latent, timestep, context.to(unet.device, unet.dtype), return_dict=False)[0]
    answer = answer.float().cpu()
    answer, noise = (tensor - tensor.mean(dim=(2, 3), keepdim=True) for tensor in (answer, noise))
    return schedule.alpha(timestep), float((answer * noise).sum() / noise.square().sum())
