"""How far a measurement would have moved with other pictures of the same kind: the bootstrap (Efron 1979)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEVEL = 0.95
"""Of an interval, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value and where it lies with probability `level`."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def to_dict(self) -> dict[str, float]:
        """Plain values, ready for JSON."""
        return asdict(self)


def resamples(count: int, size: int, seed: int = 0) -> Array:
    """(count, size): how often each of `size` things is taken when as many are drawn with replacement."""
    random = np.random.default_rng(seed)
    return random.multinomial(size, np.full(size, 1 / size), count).astype(np.float64)


def percentile_interval(value: float, draws: Array, level: float = LEVEL) -> Interval:
    """Between the percentiles of the resampled values (B,): Efron and Tibshirani 1993, section 13.3.

    For what does not lean to one side when things are drawn twice: means, and `kernels.mmd2_paired` with weights.
    """
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)


def centred_interval(value: float, draws: Array, level: float = LEVEL) -> Interval:
    """The same, moved so that the resampled values' mean lies on `value`.

    For the Fréchet distance, which grows when fewer different pictures stand behind it, as in every resample.
    """
    return percentile_interval(value, draws + (value - float(np.mean(draws))), level)


def mean_interval(values: Array, weights: Array, level: float = LEVEL) -> Interval:
    """Of the mean of `values` (n,), under the resamples `weights` (B, n)."""
    return percentile_interval(float(values.mean()), weights @ values / weights.sum(1), level)
