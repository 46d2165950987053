"""How a picture comes to the size that is drawn: scaled until it covers it, and cut at the centre.

Sides that are no multiples of the autoencoder's step are filled up with the picture's own edge, as the finished
picture is cropped by as much.
"""

from __future__ import annotations

import math

import numpy as np

from laur.core.errors import RecipeError
from laur.input.image import InputPicture

PROPORTIONS = 0.02
"""Relative difference of the proportions up to which a mask is taken for one of its picture."""
SMALLEST = 64
"""Pixels of the shorter side of a size that is chosen for a picture."""
LONGEST = 4.0
"""Proportions beyond which a chosen size is cut."""


def natural_size(picture: InputPicture, native: int, step: int) -> tuple[int, int]:
    """Width and height for a picture when none are asked for.

    Its own where they are multiples of `step` and it has no more pixels than a square of `native`; otherwise its
    proportions at that area.
    """
    width, height = picture.size
    own = width % step == 0 and height % step == 0 and min(width, height) >= SMALLEST
    if own and width * height <= native * native and max(width, height) <= LONGEST * min(width, height):
        return width, height
    ratio = min(max(width / height, 1 / LONGEST), LONGEST)
    sides = native * math.sqrt(ratio), native / math.sqrt(ratio)
    wide, high = (max(SMALLEST, round(side / step) * step) for side in sides)
    return wide, high


def other_side(size: tuple[int, int], width: int | None, height: int | None, step: int) -> tuple[int, int]:
    """Width and height where one of them is asked for, so that the proportions of `size` stay."""
    wide, high = size
    if width:
        return width, max(2 * step, round(width * high / wide / step) * step)
    assert height
    return max(2 * step, round(height * wide / high / step) * step), height


def fit(picture: InputPicture, frame: tuple[int, int], width: int, height: int) -> np.ndarray:
    """The pixels, (height, width, 3) or (height, width), of what of `frame` is shown at that size.

    `frame` is the size of the picture that is cut: the picture's own, or for a mask that of its picture, of whose
    proportions it must be.
    """
    from PIL import Image

    left, top, right, bottom = _window(frame, width, height)
    across, down = picture.size[0] / frame[0], picture.size[1] / frame[1]
    box = (left * across, top * down, right * across, bottom * down)
    if picture.size == (width, height) and box == (0, 0, width, height):
        return picture.pixels
    return np.array(picture.image.resize((width, height), Image.Resampling.LANCZOS, box=box))


def _window(frame: tuple[int, int], width: int, height: int) -> tuple[float, float, float, float]:
    """The largest rectangle of the wanted proportions in the middle of the frame."""
    scale = min(frame[0] / width, frame[1] / height)
    wide, high = min(frame[0], width * scale), min(frame[1], height * scale)
    left, top = (frame[0] - wide) / 2, (frame[1] - high) / 2
    return left, top, left + wide, top + high


def filled_up(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Continued by its own edge to a larger size; what was there stands where a centred crop finds it."""
    high, wide = pixels.shape[:2]
    top, left = (height - high) // 2, (width - wide) // 2
    around = [(top, height - high - top), (left, width - wide - left)]
    return np.pad(pixels, [*around, *([(0, 0)] * (pixels.ndim - 2))], mode="edge")


def check_mask(mask: InputPicture, picture: InputPicture) -> None:
    """Raise RecipeError where a mask cannot be one of the picture."""
    (wide, high), (width, height) = mask.size, picture.size
    if abs(wide * height / (high * width) - 1) > PROPORTIONS:
        raise RecipeError(
            f"the mask is {wide}x{high} and its picture {width}x{height}; give a mask of the picture's proportions"
        )
    if int(mask.pixels.max()) < 128:
        raise RecipeError("the mask is black all over, so nothing would be drawn; mark what is drawn anew in white")
