"""Whole trajectories through diffusers' schedulers and through our tables, with one fixed random network."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from laur.core.noise import Noise
from laur.core.sampler.apply import advance
from laur.core.sampler.table import SamplerTable
from laur.core.schedule import NoiseSchedule

SHAPE = (4, 8, 8)
SEED = 20
MIX = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(7)))[0]
PATTERN = torch.randn(SHAPE, generator=torch.Generator().manual_seed(8))


@dataclass
class Trajectory:
    """Timesteps, and after each step the latent (variance preserving) and the x0, where the scheduler tells it."""

    timesteps: list[float]
    latents: list[Tensor]
    x0: list[Tensor | None]


def network(x: Tensor, timestep: float) -> Tensor:
    """A prediction of unit scale that depends on every channel of x and on the timestep, (C, h, w)."""
    return 0.7 * torch.tensordot(MIX.to(x.dtype), x, dims=1) + (0.3 + 0.5 * timestep / 1000) * PATTERN


def ours(table: SamplerTable) -> Trajectory:
    """The table's run from Noise(SEED)."""
    noise = Noise(SEED, SHAPE)
    x, x0, draws = noise.draw(0, 0) * table.initial_scale, None, 1
    run = Trajectory([], [], [])
    for step in table.steps:
        draw = noise.draw(0, draws) if step.draws else None
        draws += step.draws
        x, x0 = advance(step, x, network(x, step.timestep), draw, x0)
        run.timesteps.append(step.timestep)
        run.latents.append(x)
        run.x0.append(x0)
    return run


def theirs(scheduler: Any, *, eta: float | None = None, **timesteps: Any) -> Trajectory:
    """The scheduler's run from a generator of SEED, as diffusers' pipelines make it."""
    scheduler.set_timesteps(**timesteps)
    kind = type(scheduler).__name__
    generator = torch.Generator().manual_seed(SEED)
    sample = torch.randn((1, *SHAPE), generator=generator) * scheduler.init_noise_sigma
    extra = {} if eta is None else {"eta": eta}
    run = Trajectory([], [], [])
    for index, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(sample, t)
        prediction = network(seen[0], float(t))[None]
        sample, *rest = scheduler.step(prediction, t, sample, generator=generator, return_dict=False, **extra)
        # variance exploding latents divided by sqrt(1 + sigma²) are ours
        scale = (1 + scheduler.sigmas[index + 1] ** 2) ** 0.5 if kind == "EulerDiscreteScheduler" else 1.0
        run.timesteps.append(float(t))
        run.latents.append(sample[0] / scale)
        run.x0.append(rest[0][0] if rest and kind != "TCDScheduler" else None)
    return run


def ddim_in_float64(scheduler: Any, *, eta: float, steps: int) -> Trajectory:
    """diffusers' DDIM with its tables and tensors widened: its formulas without its rounding.

    In float32 it takes the square root of differences that ought to be zero: 1 - alpha_bar' - std² with eta 1 at zero
    terminal SNR, whose rounding of 6e-8 becomes 2e-4.
    """
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    generator = torch.Generator().manual_seed(SEED)
    sample = torch.randn((1, *SHAPE), generator=generator).double()
    run = Trajectory([], [], [])
    for t in scheduler.timesteps:
        noise = torch.randn((1, *SHAPE), generator=generator).double()
        prediction = network(sample[0], float(t))[None]
        sample, x0 = scheduler.step(prediction, t, sample, eta, variance_noise=noise, return_dict=False)
        run.timesteps.append(float(t))
        run.latents.append(sample[0])
        run.x0.append(x0[0])
    return run


def euler_in_float64(scheduler: Any, *, prediction: str, steps: int) -> Trajectory:
    """Euler's method as diffusers writes it, at its sigmas, in float64.

    diffusers keeps x0 + sigma · noise in float32; with sigma = 4096 at zero terminal SNR that rounds x0 to 2e-4.
    """
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(SEED)
    sample = torch.randn(SHAPE, generator=generator).double() * float(scheduler.init_noise_sigma)
    run = Trajectory([], [], [])
    for index, t in enumerate(scheduler.timesteps):
        sigma, after = float(scheduler.sigmas[index]), float(scheduler.sigmas[index + 1])
        scaled = sample / (sigma**2 + 1) ** 0.5
        output = network(scaled, float(t))
        x0 = {
            "epsilon": sample - sigma * output,
            "v_prediction": scaled / (sigma**2 + 1) ** 0.5 - sigma / (sigma**2 + 1) ** 0.5 * output,
            "sample": output,
        }[prediction]
        sample = sample + (sample - x0) / sigma * (after - sigma)
        run.timesteps.append(float(t))
        run.latents.append(sample / (1 + after**2) ** 0.5)
        run.x0.append(x0)
    return run


def distance(mine: Trajectory, other: Trajectory) -> float:
    """Largest difference anywhere on the way, relative to the scale of the tensor that it is in."""
    assert mine.timesteps == other.timesteps
    pairs = [*zip(mine.latents, other.latents, strict=True), *zip(mine.x0, other.x0, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs if a is not None and b is not None)


def diffusers_betas(schedule: NoiseSchedule) -> dict[str, Any]:
    """The schedule as keyword arguments of a diffusers scheduler."""
    return {
        "num_train_timesteps": schedule.num_train_timesteps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.beta_schedule,
        "rescale_betas_zero_snr": schedule.rescale_betas_zero_snr,
        "trained_betas": None if schedule.trained_betas is None else list(schedule.trained_betas),
    }
