"""NoiseSchedule: how much of signal and noise a latent holds at each training timestep.

    x_t = alpha_t · x0 + sigma_t · noise,  alpha_t² = alpha_bar_t = prod_{s <= t} (1 - beta_s),  sigma_t² = 1 - alpha_t²

The tables are built in float32, as diffusers builds them and as the models were trained, and only then widened to
float64. Built in float64 throughout, sigma_t would be off by up to 1.2·10⁻⁵ (cosine betas rescaled to zero terminal
SNR), more than the 10⁻⁵ that our samplers promise. Built here they equal diffusers' bit for bit, but after the
rescaling, where torch's square root is not correctly rounded on every machine: there sigma_t is within 10⁻⁵, and for
the scaled-linear betas of Stable Diffusion within 10⁻⁶.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laur.core.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BETA_SCHEDULES: tuple[str, ...] = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""The names that a scheduler_config.json may give as `beta_schedule`."""

TIMESTEP_LIMIT = 100_000
"""Longest training schedule that is read: a table of it stays under a megabyte."""

TINY_ALPHA_BAR = 2.0**-24
"""What Euler and DPM-Solver++ take for an alpha_bar of zero, so that sigma/alpha stays finite (diffusers' choice)."""


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """The betas that a checkpoint was trained with, by their definition: pure values, hashable and serialisable."""

    beta_schedule: str = "scaled_linear"
    """linear, scaled_linear or squaredcos_cap_v2."""
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    rescale_betas_zero_snr: bool = False
    """Shift and scale so that the last timestep is pure noise (arXiv 2305.08891, algorithm 1)."""
    trained_betas: tuple[float, ...] | None = None
    """The betas themselves; then `beta_schedule`, `beta_start` and `beta_end` say nothing."""

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """From the values of a diffusers scheduler_config.json.

        Keys that are missing take the defaults of the class in `_class_name`. `clip_sample` is ignored, since
        diffusers' Stable Diffusion pipelines switch it off too: latents are not confined to [-1, 1].

        Raises:
            CheckpointError: an unknown `beta_schedule`, betas outside (0, 1), or `thresholding`, which belongs to
                models of pixels.
        """
        if config.get("thresholding"):
            raise CheckpointError(
                "the scheduler asks for thresholding, which only models of pixels use; set it to false"
            )
        values: dict[str, Any] = {}
        if config.get("_class_name", "LCMScheduler") not in {"LCMScheduler", "TCDScheduler"}:
            values = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
        values |= {name: config[name] for name in cls.__dataclass_fields__ if config.get(name) is not None}
        betas = values.get("trained_betas")
        if betas is not None:
            if not isinstance(betas, list | tuple):
                raise CheckpointError(f"trained_betas must be a list of numbers, not {betas!r}")
            values["trained_betas"] = tuple(betas)
            values.setdefault("num_train_timesteps", len(betas))
        return cls(**values)

    @property
    def alphas_cumprod(self) -> NDArray[np.float64]:
        """alpha_bar by timestep, (T,), falling; read-only and computed once for equal schedules."""
        return _alphas_cumprod(self)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last timestep holds no signal at all; then the noise cannot be the network's prediction."""
        return self.rescale_betas_zero_snr or float(self.alphas_cumprod[-1]) == 0.0

    def alpha(self, timestep: int) -> float:
        """Signal scale at `timestep`, 0 … T - 1."""
        return math.sqrt(self._bar(timestep))

    def sigma(self, timestep: int) -> float:
        """Noise scale at `timestep`, 0 … T - 1."""
        return math.sqrt(1.0 - self._bar(timestep))

    def _bar(self, timestep: int) -> float:
        if not 0 <= timestep < self.num_train_timesteps:
            raise IndexError(f"timestep {timestep} is outside 0 … {self.num_train_timesteps - 1}")
        return float(self.alphas_cumprod[timestep])


def _check(schedule: NoiseSchedule) -> None:
    steps, betas = schedule.num_train_timesteps, schedule.trained_betas
    if not isinstance(steps, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CheckpointError(f"num_train_timesteps must be a whole number, not {steps!r}")
    if not 1 <= steps <= TIMESTEP_LIMIT:
        raise CheckpointError(f"num_train_timesteps is {steps}; the schedule must have from 1 to {TIMESTEP_LIMIT:,}")
    if betas is not None:
        if len(betas) != steps:
            raise CheckpointError(f"trained_betas holds {len(betas)} values for {steps} timesteps; give one for each")
        if not all(_is_beta(beta) for beta in betas):
            raise CheckpointError("trained_betas must lie between 0 and 1")
    elif schedule.beta_schedule not in BETA_SCHEDULES:
        raise CheckpointError(
            f"beta_schedule {schedule.beta_schedule!r} is unknown; Laur samples {', '.join(BETA_SCHEDULES)}"
        )
    else:
        _check_range(schedule.beta_start, schedule.beta_end)


def _check_range(start: Any, end: Any) -> None:
    for name, value in (("beta_start", start), ("beta_end", end)):
        if not isinstance(value, int | float):
            raise CheckpointError(f"{name} must be a number, not {value!r}")
    if not (_is_beta(start) and _is_beta(end) and start <= end < 1.0):
        raise CheckpointError(f"betas run from {start} to {end}; they must rise and lie between 0 and 1")


def _is_beta(value: Any) -> bool:
    return isinstance(value, int | float) and 0.0 < value <= 1.0


@functools.lru_cache(maxsize=64)
def _alphas_cumprod(schedule: NoiseSchedule) -> NDArray[np.float64]:
    import numpy as np

    betas = _betas(schedule)
    if schedule.rescale_betas_zero_snr:
        betas = _rescale_zero_terminal_snr(betas)
    alphas_cumprod = _cumprod(np.float32(1.0) - betas).astype(np.float64)
    alphas_cumprod.setflags(write=False)
    return alphas_cumprod


def _betas(schedule: NoiseSchedule) -> NDArray[np.float32]:
    import numpy as np

    if schedule.trained_betas is not None:
        return np.asarray(schedule.trained_betas, dtype=np.float32)
    T = schedule.num_train_timesteps
    if schedule.beta_schedule == "linear":
        return _linspace(schedule.beta_start, schedule.beta_end, T)
    if schedule.beta_schedule == "scaled_linear":
        return np.square(_linspace(math.sqrt(schedule.beta_start), math.sqrt(schedule.beta_end), T))
    # Improved DDPM (arXiv 2102.09672), equation 17, capped so that alpha_bar never reaches zero
    bars = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    return np.asarray([min(1.0 - bars[t + 1] / bars[t], 0.999) for t in range(T)], dtype=np.float32)


def _linspace(start: float, stop: float, count: int) -> NDArray[np.float32]:
    """`count` float32 values, counted from the nearer end as torch does, rounded once each.

    Plain NumPy, so that a schedule has the same bits (and a Plan the same hash) on every machine.
    """
    import numpy as np

    low, high = float(np.float32(start)), float(np.float32(stop))
    step = float(np.float32(np.float32(high - low) / np.float32(max(count - 1, 1))))
    index = np.arange(count, dtype=np.float64)
    rising, falling = low + step * index, high - step * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def _rescale_zero_terminal_snr(betas: NDArray[np.float32]) -> NDArray[np.float32]:
    """Betas whose last alpha_bar is zero and whose first is kept (arXiv 2305.08891, algorithm 1)."""
    import numpy as np

    root = np.sqrt(_cumprod(np.float32(1.0) - betas))
    first, last = root[0], root[-1]
    bars = np.square((root - last) * (first / (first - last)))
    return np.float32(1.0) - np.concatenate([bars[:1], bars[1:] / bars[:-1]])


def _cumprod(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Running product, accumulated in float64 and rounded to float32, as torch does on the CPU."""
    import numpy as np

    return np.cumprod(values, dtype=np.float64).astype(np.float32)
