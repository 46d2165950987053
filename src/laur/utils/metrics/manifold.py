"""Fidelity and variety apart, by nearest neighbours: precision, recall, density, coverage.

Each is the mean of a value for each picture, and these values are what is returned: their mean is the metric, and a
bootstrap may weight them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROWS = 1024
"""Rows of a distance matrix that are made at a time where only their summary is kept."""


def squared_distances(x: NDArray[np.floating], y: NDArray[np.floating]) -> Array:
    """(n, m) |x_i - y_j|² of (n, d) and (m, d), in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    centre = y.mean(0)  # what both share would cost digits
    x, y = x - centre, y - centre
    found = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * (x @ y.T)
    return found.clip(0)


def precision_recall(real: NDArray[np.floating], generated: NDArray[np.floating], k: int = 3) -> tuple[Array, Array]:
    """Improved precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991), eq. 1 and 2.

    Of (n, d) real and (m, d) generated: (m,), 1 where a generated picture lies within the distance of some real
    picture to its k-th neighbour among the real; and (n,), the same with the sides exchanged.
    """
    return _within_any(generated, real, radii(real, k)), _within_any(real, generated, radii(generated, k))


def density_coverage(real: NDArray[np.floating], generated: NDArray[np.floating], k: int = 5) -> tuple[Array, Array]:
    """Density and coverage: Naeem et al. 2020 (arXiv 2002.09797), eq. 3 and 4.

    Of (n, d) real and (m, d) generated: (m,), in how many of the real pictures' balls of k neighbours a generated
    picture lies, over k; and (n,), 1 where a real picture's ball holds any generated one.
    """
    limits = radii(real, k)
    density, coverage = np.zeros(len(generated)), np.zeros(len(real))
    for start in range(0, len(real), ROWS):
        part = slice(start, start + ROWS)
        inside = squared_distances(real[part], generated) <= limits[part, None]
        density += inside.sum(0) / k
        coverage[part] = inside.any(1)
    return density, coverage


def radii(rows: NDArray[np.floating], k: int) -> Array:
    """(n,) squared distance of each row to its k-th nearest other one."""
    if not 1 <= k < len(rows):
        raise ValueError(f"k is {k}; it lies in 1..{len(rows) - 1} with {len(rows)} rows")
    found = np.empty(len(rows))
    for start in range(0, len(rows), ROWS):
        part = squared_distances(rows[start : start + ROWS], rows)
        part[np.arange(len(part)), np.arange(start, start + len(part))] = -1  # itself, first whatever rounding says
        found[start : start + ROWS] = np.partition(part, k, axis=1)[:, k]
    return found


def _within_any(points: NDArray[np.floating], centres: NDArray[np.floating], limits: Array) -> Array:
    found = np.empty(len(points))
    for start in range(0, len(points), ROWS):
        part = slice(start, start + ROWS)
        found[part] = (squared_distances(points[part], centres) <= limits[None]).any(1)
    return found
