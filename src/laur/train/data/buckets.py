"""Sizes for pictures of any aspect ratio, as kohya's scripts have them: about one area, sides of whole steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 2
"""Longest to shortest side at most."""


def bucket_sizes(size: int, *, square: bool, step: int = 0) -> tuple[tuple[int, int], ...]:
    """(height, width) of each bucket, the square first; areas up to size², sides multiples of `step` (an eighth)."""
    if square:
        return ((size, size),)
    step = step or max(8, size // 8 // 8 * 8)
    found = {(size, size)}
    for long in range(size, size * LONGEST + 1, step):
        short = size * size // long // step * step
        if short and long <= LONGEST * short:
            found |= {(long, short), (short, long)}
    return tuple(sorted(found, key=lambda pair: (pair != (size, size), pair)))


def nearest(width: int, height: int, sizes: tuple[tuple[int, int], ...]) -> int:
    """Number of the bucket whose aspect ratio is nearest."""
    return min(range(len(sizes)), key=lambda i: abs(_log(sizes[i][1] / sizes[i][0]) - _log(width / height)))


def fit(picture: Image, size: tuple[int, int]) -> tuple[Image, tuple[int, int]]:
    """The picture scaled to cover (height, width) and cropped about its middle; and the crop's (top, left)."""
    from PIL import Image

    height, width = size
    scale = max(width / picture.width, height / picture.height)
    new = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    scaled = picture if new == picture.size else picture.resize(new, Image.Resampling.LANCZOS)
    left, top = (new[0] - width) // 2, (new[1] - height) // 2
    return scaled.crop((left, top, left + width, top + height)), (top, left)


def _log(ratio: float) -> float:
    import math

    return math.log(ratio)
