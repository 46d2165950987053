"""Squared maximum mean discrepancy (MMD²) under a kernel: KID and CMMD."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laur.utils.metrics.manifold import squared_distances

Array = NDArray[np.float64]
SIGMA = 10.0
"""Bandwidth of the Gaussian kernel in CMMD (arXiv 2401.09603, section 4 and its code)."""
SCALE = 1000.0
"""What KID and CMMD are multiplied with where they are shown."""


def polynomial_kernel(x: NDArray[np.floating], y: NDArray[np.floating]) -> Array:
    """(n, m): (x·y / d + 1)³, the kernel of KID: Bińkowski et al. 2018 (arXiv 1801.01401), section 3."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def rbf_kernel(x: NDArray[np.floating], y: NDArray[np.floating], sigma: float = SIGMA) -> Array:
    """(n, m): exp(-|x - y|² / 2σ²), the kernel of CMMD: Jayasumana et al. 2024 (arXiv 2401.09603), section 4.

    There σ is 10 on CLIP's features; here it is applied to whatever features are given.
    """
    return np.exp(squared_distances(x, y) / (-2 * sigma**2))


def mmd2(kxx: Array, kyy: Array, kxy: Array) -> float:
    """Unbiased estimate from kernel matrices (n, n), (m, m), (n, m): Gretton et al. 2012 (JMLR 13), eq. 3."""
    n, m = kxy.shape
    within_x = (kxx.sum() - np.trace(kxx)) / (n * (n - 1))
    within_y = (kyy.sum() - np.trace(kyy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * kxy.mean())


def mmd2_paired(kxx: Array, kyy: Array, kxy: Array, weights: Array | None = None) -> float:
    """Unbiased estimate where x_i and y_i belong together, as drawn from one prompt: Gretton et al. 2012, eq. 4.

    Pairs of the same i are left out of all three sums, so nothing that x_i and y_i share can move it. `weights` (n,)
    count each i that often: a copy of i is i, and a bootstrap cannot take it for a second picture.
    """
    h = kxx + kyy - kxy - kxy.T
    if weights is None:
        return float((h.sum() - np.trace(h)) / (len(h) * (len(h) - 1)))
    squares = weights**2
    return float((weights @ h @ weights - squares @ np.diag(h)) / (weights.sum() ** 2 - squares.sum()))


def by_prompt(kernel: Array, prompts: int) -> Array:
    """(P, P) from (P · a, P · b): the mean over all pictures of two prompts, whose rows and columns lie together."""
    rows, columns = (size // prompts for size in kernel.shape)
    return kernel.reshape(prompts, rows, prompts, columns).mean((1, 3))


@dataclass(frozen=True, slots=True)
class Kid:
    """Kernel Inception distance, not scaled."""

    mean: float
    """Over the subsets."""
    variance: float
    """Between subsets."""
    subsets: int
    size: int
    """Rows of each subset."""


def kid(
    x: NDArray[np.floating], y: NDArray[np.floating], *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Kid:
    """KID over random subsets of both sides, drawn without replacement: arXiv 1801.01401, section 4 (and its code).

    Where a side has fewer rows than `size`, subsets hold as many as it has.
    """
    size = min(size, len(x), len(y))
    if size < 2:
        raise ValueError(f"KID needs two rows on each side, not {len(x)} and {len(y)}")
    random = np.random.default_rng(seed)
    found = np.empty(subsets)
    for i in range(subsets):
        a = x[random.choice(len(x), size, replace=False)]
        b = y[random.choice(len(y), size, replace=False)]
        found[i] = mmd2(polynomial_kernel(a, a), polynomial_kernel(b, b), polynomial_kernel(a, b))
    return Kid(float(found.mean()), float(found.var(ddof=1)) if subsets > 1 else 0.0, subsets, size)
