"""Fréchet distance between two sets, each taken as a Gaussian."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def frechet_distance(
    x: NDArray[np.floating], y: NDArray[np.floating], x_weights: Array | None = None, y_weights: Array | None = None
) -> float:
    """|μx - μy|² + tr(Σx + Σy - 2 (Σx Σy)^½) of features (n, d) and (m, d): Heusel et al. 2017, eq. 6.

    (arXiv 1706.08500; FID where the features are Inception's.)
    Σ are sample covariances (n - 1). Weights (n,), (m,) count each row that often, as a bootstrap does.

    With A, B the centred rows over √(n - 1), the eigenvalues of Σx Σy are the squared singular values of A Bᵀ. So the
    last trace is their plain sum, which no singular covariance disturbs: fewer rows than dimensions are the usual case
    here. It is not unbiased: it falls with n, so compare like with like.
    """
    mean_x, a = _centred(x, x_weights)
    mean_y, b = _centred(y, y_weights)
    gap = float(np.sum((mean_x - mean_y) ** 2))
    if min(len(a), len(b)) > a.shape[1]:
        return frechet_from_moments(mean_x, a.T @ a, mean_y, b.T @ b)
    cross = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    return max(0.0, gap + float(np.sum(a * a) + np.sum(b * b)) - 2 * cross)


def frechet_from_moments(mean_x: Array, cov_x: Array, mean_y: Array, cov_y: Array) -> float:
    """The same from means (d,) and covariances (d, d), by the eigenvalues of Σx^½ Σy Σx^½.

    These are those of Σx Σy, but of a symmetric matrix: real, and below zero by rounding alone, which is cut off.
    """
    values, vectors = np.linalg.eigh(cov_x)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ cov_y @ root)
    gap = float(np.sum((mean_x - mean_y) ** 2))
    return max(0.0, gap + float(np.trace(cov_x) + np.trace(cov_y)) - 2 * float(np.sqrt(middle.clip(0)).sum()))


def _centred(rows: NDArray[np.floating], weights: Array | None) -> tuple[Array, Array]:
    """The mean (d,), and rows whose Gram matrix is the covariance."""
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"features are (n, d) with n of 2 at least, not {rows.shape}")
    values = rows.astype(np.float64)
    if weights is None:
        mean = values.mean(0)
        return mean, (values - mean) / np.sqrt(len(values) - 1)
    kept = weights > 0
    values, counts = values[kept], weights[kept]
    total = float(counts.sum())
    mean = counts @ values / total
    return mean, (values - mean) * np.sqrt(counts / (total - 1))[:, None]
