"""sigma / alpha along a schedule: the noise level of variance-exploding samplers (Karras et al., arXiv 2206.00364)."""

from __future__ import annotations

from collections.abc import Sequence

from laur.core.sampler.request import Level
from laur.core.schedule import TINY_ALPHA_BAR, NoiseSchedule


def levels(schedule: NoiseSchedule, timesteps: Sequence[float]) -> list[Level]:
    """The level of each timestep, linear in sigma / alpha between whole ones, and at last no noise.

    At zero terminal SNR the ratio would be infinite: there alpha_bar counts as 2^-24, as in diffusers.
    """
    import numpy as np

    bars = schedule.alphas_cumprod.copy()
    if schedule.zero_terminal_snr:
        bars[-1] = TINY_ALPHA_BAR
    ratios = np.interp(np.asarray(timesteps), np.arange(len(bars)), np.sqrt((1.0 - bars) / bars))
    return [*(Level.of_ratio(float(ratio)) for ratio in ratios), Level(1.0, 0.0)]
