"""What is counted picture by picture: captions found again, successes among several tries, likeness of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def pass_at_k(tries: int, successes: int, k: int) -> float:
    """Chance that at least one of k tries succeeds, unbiased from `successes` of `tries` ≥ k.

    1 - C(n - c, k) / C(n, k) as a product: Chen et al. 2021 (arXiv 2107.03374), section 2.1 and figure 3.
    """
    if not 0 <= successes <= tries or not 1 <= k <= tries:
        raise ValueError(f"pass@{k} cannot be had from {successes} of {tries} tries")
    if tries - successes < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(tries - successes + 1, tries + 1)))


def retrieved(scores: NDArray[np.floating], own: NDArray[np.integer], top: int = 1) -> Array:
    """(n,) 1 where the own caption is among the `top` best of the candidates: recall at `top`.

    `scores` (n, m) are of each picture with each candidate, `own` (n,) is the column of its own. A tie counts against
    it, so that a scorer that gives the same to all finds nothing.
    """
    mine = np.take_along_axis(scores, own[:, None], 1)
    better = (scores >= mine).sum(1) - 1
    return (better < top).astype(np.float64)


def psnr(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> Array:
    """(n,) peak signal-to-noise ratio in dB of pictures (n, …) in 0..255, 100 at most (equal pictures)."""
    gap = x.astype(np.float64) - y.astype(np.float64)
    error = (gap * gap).reshape(len(gap), -1).mean(1)
    return 10 * np.log10(255.0**2 / error.clip(255.0**2 / 1e10))
