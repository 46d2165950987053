"""From features and scores to numbers, each with its bootstrap interval, the noise floor and the excess over it.

One set of resamples of the prompts serves all subjects and metrics, so differences and ratios between subjects keep
what the same prompts have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laur.utils.metrics import agreement, bootstrap, gaussian, kernels, manifold
from laur.utils.metrics.bootstrap import Interval

Array = NDArray[np.float64]
Features = NDArray[np.float32]
NEIGHBOURS, BALLS = 3, 5
"""k of precision and recall, and of density and coverage, as their authors have it."""
FEW_FD, MANY_FD = 40, 200
"""Resamples of the Fréchet distance, of many pictures and of few: each is a decomposition."""
MANY_PICTURES = 600
SUBSETS = 100
MOST = {"precision": 1.0, "recall": 1.0, "density": np.finfo(np.float64).max, "coverage": 1.0}
HALVES, HALF = 200, 500
"""Subsamples of the prompts for what counts neighbours, and how many prompts one holds at most."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One number and its resamples."""

    value: float
    draws: Array
    """(B,)"""
    centred: bool = False
    """Whether the interval is moved onto the value: for what a resample itself pushes to one side."""
    most: float = np.inf
    """What it cannot exceed; its interval is cut off there, and at 0 if this is finite."""

    def interval(self, level: float) -> Interval:
        """Where it lies with probability `level`."""
        make = bootstrap.centred_interval if self.centred else bootstrap.percentile_interval
        found = make(self.value, self.draws, level)
        if self.most == np.inf:
            return found
        # at an end all halves may agree but for a few, and moving their mean takes the others beyond it
        low, high = min(max(found.low, 0.0), self.value), max(min(found.high, self.most), self.value)
        return replace(found, low=low, high=high)


Column = dict[str, Measured]
"""By subject."""


@dataclass(frozen=True, slots=True)
class Resamples:
    """How often each prompt is taken: (B, P)."""

    weights: Array

    @classmethod
    def of(cls, prompts: int, count: int) -> Resamples:
        """The same for the same numbers."""
        return cls(bootstrap.resamples(count, prompts, seed=0))

    @property
    def prompts(self) -> int:
        """P."""
        return self.weights.shape[1]

    def mean(self, values: Array) -> Measured:
        """Of a value for each picture (P · a,), a prompt's pictures lying together."""
        each = values.reshape(self.prompts, -1).mean(1)
        return Measured(float(each.mean()), self.weights @ each / self.weights.sum(1))


def against(reference: Features, features: Mapping[str, Features], resamples: Resamples) -> dict[str, Column]:
    """The distribution metrics of each subject against `reference`, by metric and subject.

    All are rows by prompt (P · a, d); subjects and reference may have different a.
    """
    found: dict[str, Column] = {}
    spare = resamples.prompts
    kernel = {"kid": kernels.polynomial_kernel, "mmd": kernels.rbf_kernel}
    for key, make in kernel.items():
        within = kernels.by_prompt(make(reference, reference), spare)
        found[key] = {name: _mmd(make, rows, reference, within, resamples) for name, rows in features.items()}
    found["fd"] = {name: _fd(rows, reference, resamples) for name, rows in features.items()}
    for name, rows in features.items():
        if min(len(rows), len(reference)) > BALLS:
            for key, one in _neighbours(rows, reference, resamples).items():
                found.setdefault(key, {})[name] = one
    return found


def _mmd(make: Any, rows: Features, reference: Features, within: Array, resamples: Resamples) -> Measured:
    prompts = resamples.prompts
    own = kernels.by_prompt(make(rows, rows), prompts)
    cross = kernels.by_prompt(make(rows, reference), prompts)
    draws = [kernels.mmd2_paired(own, within, cross, weights) for weights in resamples.weights]
    return Measured(
        kernels.SCALE * kernels.mmd2_paired(own, within, cross), kernels.SCALE * np.array(draws, dtype=np.float64)
    )


def _fd(rows: Features, reference: Features, resamples: Resamples) -> Measured:
    count = MANY_FD if max(len(rows), len(reference)) <= MANY_PICTURES else FEW_FD
    draws: list[float] = []
    for weights in resamples.weights[:count]:
        x, y = (np.repeat(weights, len(part) // resamples.prompts) for part in (rows, reference))
        draws.append(gaussian.frechet_distance(rows, reference, x, y))
    return Measured(gaussian.frechet_distance(rows, reference), np.array(draws), centred=True)


def _neighbours(rows: Features, reference: Features, resamples: Resamples) -> dict[str, Measured]:
    """Precision, recall, density and coverage.

    They count neighbours, and a prompt that is taken twice is its own: with replacement nothing can be drawn. So the
    spread is that of subsamples without replacement, brought from their size to that of the whole (Politis, Romano
    and Wolf 1999, Subsampling, section 2.2, with the correction for a finite population).
    """
    whole = _counted(rows, reference)
    prompts = resamples.prompts
    size = min(prompts // 2, HALF)
    if size * min(len(rows), len(reference)) // prompts <= BALLS:
        return {key: replace(resamples.mean(each), most=MOST[key]) for key, each in whole.items()}
    random = np.random.default_rng(0)
    means: dict[str, list[float]] = {key: [] for key in whole}
    for _ in range(min(HALVES, len(resamples.weights))):
        some = np.sort(random.permutation(prompts)[:size])
        for key, each in _counted(*(_of_prompts(part, some, prompts) for part in (rows, reference))).items():
            means[key].append(float(each.mean()))
    found: dict[str, Measured] = {}
    for key, each in whole.items():
        draws, value = np.array(means[key]), float(each.mean())
        draws = value + (draws - draws.mean()) * np.sqrt(size / (prompts - size))
        found[key] = Measured(value, draws, centred=True, most=MOST[key])
    return found


def _counted(rows: Features, reference: Features) -> dict[str, Array]:
    precision, recall = manifold.precision_recall(reference, rows, NEIGHBOURS)
    density, coverage = manifold.density_coverage(reference, rows, BALLS)
    return {"precision": precision, "recall": recall, "density": density, "coverage": coverage}


def _of_prompts(rows: Features, some: NDArray[np.int64], prompts: int) -> Features:
    return rows.reshape(prompts, -1, rows.shape[1])[some].reshape(-1, rows.shape[1])


def subsets(rows: Features, reference: Features) -> dict[str, float]:
    """KID as it is usually given: mean and variance over random subsets, of the values times 1000."""
    found = kernels.kid(rows, reference, subsets=SUBSETS, size=max(2, min(1000, len(rows) // 2)))
    return {
        "mean": kernels.SCALE * found.mean,
        "variance": kernels.SCALE**2 * found.variance,
        "subsets": found.subsets,
        "size": found.size,
    }


def excess(subject: Measured, floor: Measured, yardstick: Measured, level: float) -> Interval | None:
    """How far above the floor, in per cent of how far the yardstick is.

    None where the yardstick itself cannot be told from the floor. Of each resample all three are taken, so the interval
    is that of the ratio.
    """
    count = min(len(subject.draws), len(floor.draws), len(yardstick.draws))
    gap = yardstick.draws[:count] - floor.draws[:count]
    low, high = np.quantile(gap, [(1 - level) / 2, (1 + level) / 2])
    whole = yardstick.value - floor.value
    if whole == 0 or low <= 0 <= high or not (gap * np.sign(whole) > 0).all():
        return None
    draws = 100 * (subject.draws[:count] - floor.draws[:count]) / gap
    value = 100 * (subject.value - floor.value) / whole
    make = bootstrap.centred_interval if subject.centred else bootstrap.percentile_interval
    return make(value, draws, level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """What came of the scorer's choices, by subject."""

    found: Column
    """Pictures whose caption was found among the candidates."""
    passes: Mapping[int, Column] = field(default_factory=dict[int, Column])
    """pass@k by k: the chance that one of k seeds is found."""


def tries(scores: Mapping[str, NDArray[np.float32]], resamples: Resamples) -> Tries:
    """From scores (P · a, candidates), whose first column is the own caption."""
    found: Column = {}
    passes: dict[int, Column] = {}
    for name, table in scores.items():
        hits = agreement.retrieved(table, np.zeros(len(table), np.int64))
        found[name] = resamples.mean(hits)
        count = hits.reshape(resamples.prompts, -1)
        for k in range(1, count.shape[1] + 1) if count.shape[1] > 1 else ():
            chances = [agreement.pass_at_k(count.shape[1], int(row.sum()), k) for row in count]
            passes.setdefault(k, {})[name] = resamples.mean(np.array(chances))
    return Tries(found=found, passes=passes)
