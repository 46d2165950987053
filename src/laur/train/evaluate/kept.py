"""From pictures to scores of style and caption, and what of both is kept: numbers with paired bootstrap intervals.

A picture's style score is the probability that the fixed classifier (`style_classifier`) gives its style. Its caption
score is how many deviations its own caption lies above the mean of a pool's other captions, in a scorer's eyes: 0 by
chance, whatever the picture's style does to all scores alike. Retention is the mean score in few steps over that of the
same prompts drawn by the style's adapter alone in many. Beside it stands the chance that the scorer finds the caption
among 32, over every way to choose the 31 others: with b of M scored as high or higher, C(M - b, 31) / C(M, 31). It says
more to people, and less of each picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laur.utils.metrics.agreement import pass_at_k
from laur.utils.metrics.bootstrap import LEVEL, Interval, mean_interval, percentile_interval, resamples

Array = NDArray[np.float64]
CHOICES = 32
"""Captions that one is found among."""
RESAMPLES = 2000
WEAK = 0.3
"""Mean style score of the style alone below which there is little to keep, and its ratio says little."""
UNREAD = 0.4
"""Mean caption score of the style alone, in deviations, below which the scorer reads little off it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Of the pictures of one row, a prompt's tries one after the other."""

    style: Array
    """(P · a,) probability of the style."""
    caption: Array
    """(P · a,) deviations above other captions."""
    found: Array
    """(P · a,) chance that the caption is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one way to draw in few steps keeps of a style alone in many."""

    style: Interval
    caption: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"style": self.style.to_dict(), "caption": self.caption.to_dict()}


def above_others(scores: NDArray[np.floating], own: Sequence[int], rivals: Sequence[Sequence[int]]) -> Array:
    """(n,) deviations by which the own caption lies above the mean of those that would be wrong; see found_among."""
    found = np.empty(len(scores), np.float64)
    for number, (row, mine, others) in enumerate(zip(scores, own, rivals, strict=True)):
        rest = row[list(others)].astype(np.float64)
        found[number] = (float(row[mine]) - rest.mean()) / max(float(rest.std()), 1e-9)
    return found


def found_among(scores: NDArray[np.floating], own: Sequence[int], rivals: Sequence[Sequence[int]]) -> Array:
    """(n,) from scores (n, M) of each picture with each caption of a pool.

    `own` is the column of each picture's caption, `rivals` those of captions that would be wrong for it. A tie counts
    against it.
    """
    found = np.empty(len(scores), np.float64)
    for number, (row, mine, others) in enumerate(zip(scores, own, rivals, strict=True)):
        ahead = int((row[list(others)] >= row[mine]).sum())
        found[number] = 1 - pass_at_k(len(others), ahead, min(CHOICES - 1, len(others)))
    return found


def kept(few: Scores, alone: Scores, prompts: int, level: float = LEVEL) -> Kept:
    """Both ratios; resampled are prompts, the same in numerator and denominator."""
    return Kept(
        style=ratio(few.style, alone.style, prompts, level), caption=ratio(few.caption, alone.caption, prompts, level)
    )


def ratio(few: Array, alone: Array, prompts: int, level: float = LEVEL) -> Interval:
    """Mean of `few` over mean of `alone`, both (P · a,)."""
    weights = resamples(RESAMPLES, prompts)
    top, bottom = (by_prompt(values, prompts) for values in (few, alone))
    floor = 1e-9
    draws = (weights @ top) / np.maximum(weights @ bottom, floor)
    return percentile_interval(float(top.mean() / max(bottom.mean(), floor)), draws, level)


def mean(values: Array, prompts: int, level: float = LEVEL) -> Interval:
    """Of scores (P · a,)."""
    return mean_interval(by_prompt(values, prompts), resamples(RESAMPLES, prompts), level)


def by_prompt(values: Array, prompts: int) -> Array:
    """(P,): the mean of each prompt's tries."""
    return values.reshape(prompts, -1).mean(1)


def together(of_styles: Mapping[str, Scores]) -> Scores:
    """The mean over styles, picture by picture: all were drawn from the same prompts."""
    return Scores(
        style=np.mean([scores.style for scores in of_styles.values()], axis=0),
        caption=np.mean([scores.caption for scores in of_styles.values()], axis=0),
        found=np.mean([scores.found for scores in of_styles.values()], axis=0),
    )
