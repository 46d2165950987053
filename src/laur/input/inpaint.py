"""What image editors do to a picture and its mask around inpainting: other sizes, filled holes, a part drawn larger.

All of it on pixels, before and after the drawing. Masks are white where the picture is drawn anew, from HALF on.
"""

from __future__ import annotations

import math

import numpy as np

from laur.input.image import InputPicture

HALF = 128
"""Masks count as white from here on, as in diffusers."""
_RADII = (256, 64, 16, 4)
"""Of the blurs that carry the surroundings' colours into a hole, far ones first."""
_FAINT = 16
"""Of 255: how much of a blurred neighbourhood must be known for its colour to be taken."""
_COARSE = 2**19
"""Pixels at which the surroundings of a hole are looked at."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


def stretched(picture: InputPicture, width: int, height: int) -> InputPicture:
    """At that size, whatever its proportions were."""
    if picture.size == (width, height):
        return picture
    return InputPicture(_resized(picture.pixels, width, height))


def inset(picture: InputPicture, width: int, height: int) -> InputPicture:
    """As large as it fits into that size, in its proportions; the rest continues its edges."""
    left, top, wide, high = _place(picture.size, width, height)
    pixels = _resized(picture.pixels, wide, high)
    around = [(top, height - high - top), (left, width - wide - left)]
    return InputPicture(np.pad(pixels, [*around, *([(0, 0)] * (pixels.ndim - 2))], mode="edge"))


def cut_back(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """What `inset` had made of a picture of this size, at this size again."""
    left, top, wide, high = _place((width, height), pixels.shape[1], pixels.shape[0])
    return _resized(pixels[top : top + high, left : left + wide], width, height)


def inverted(mask: InputPicture) -> InputPicture:
    """What was kept is drawn anew."""
    return InputPicture(255 - mask.pixels)


def filled(picture: InputPicture, mask: InputPicture) -> InputPicture:
    """The masked part replaced by the colours around it, blurred the more the farther they are. Sizes are the same."""
    hole = mask.pixels >= HALF
    shrunk = min(1.0, math.sqrt(_COARSE / hole.size))  # what is blurred needs no more
    width, height = (max(1, round(side * shrunk)) for side in picture.size)
    known = _resized(np.where(hole, 0, 255).astype(np.uint8), width, height)
    colours = _surroundings(_resized(picture.pixels, width, height), known == 255)
    pixels = picture.pixels.copy()
    pixels[hole] = _resized(colours, *picture.size)[hole]
    return InputPicture(pixels)


def _surroundings(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: what is known of a picture, carried over the rest."""
    if not known.any():
        return np.full_like(pixels, 128)
    visible = np.where(known[:, :, None], pixels, 0).astype(np.uint8)
    fill = np.broadcast_to(pixels[known].mean(axis=0), pixels.shape).astype(np.float32)
    for radius in _RADII:
        weight = _blurred((known * 255).astype(np.uint8), radius)[:, :, None]
        colours = np.clip(_blurred(visible, radius) * 255 / np.maximum(weight, 1), 0, 255)
        share = np.where(weight < _FAINT, 0, np.minimum(1, weight / 64))
        fill = fill * (1 - share) + colours * share
    return np.where(known[:, :, None], pixels, fill.round()).astype(np.uint8)


def masked_part(mask: InputPicture, padding: int, proportions: tuple[int, int] | None) -> Box:
    """Where a mask is white, with so many pixels around it, widened to the proportions as far as the picture goes.

    The mask must be white somewhere.
    """
    rows, columns = np.nonzero(mask.pixels >= HALF)
    width, height = mask.size
    left, right = max(0, int(columns.min()) - padding), min(width, int(columns.max()) + 1 + padding)
    top, bottom = max(0, int(rows.min()) - padding), min(height, int(rows.max()) + 1 + padding)
    if proportions is not None:
        ratio = proportions[0] / proportions[1]
        left, right = _widened(left, right, math.ceil((bottom - top) * ratio), width)
        top, bottom = _widened(top, bottom, math.ceil((right - left) / ratio), height)
    return left, top, right, bottom


def cropped(picture: InputPicture, box: Box) -> InputPicture:
    """The part of a picture or mask."""
    left, top, right, bottom = box
    return InputPicture(np.ascontiguousarray(picture.pixels[top:bottom, left:right]))


def pasted(picture: InputPicture, mask: InputPicture, box: Box, drawn: np.ndarray, blur: float) -> np.ndarray:
    """(H, W, 3) uint8: the picture with the masked part as it was drawn; `drawn` is `inset` of the box, drawn over."""
    from PIL import Image

    left, top, right, bottom = box
    part = Image.fromarray(cut_back(drawn, right - left, bottom - top))
    share = feathered(cropped(mask, box).pixels >= HALF, blur)
    whole = picture.image
    whole.paste(part, (left, top), Image.fromarray((share * 255).round().astype(np.uint8)))
    return np.array(whole)


def feathered(mask: np.ndarray, radius: float) -> np.ndarray:
    """(H, W) bool to how much of each pixel is drawn, float32: 0 outside the mask, rising to 1 within some `radius`
    pixels inside it."""
    hard = mask.astype(np.float32)
    if radius <= 0:
        return hard
    soft = _blurred((hard * 255).astype(np.uint8), radius / 2) / 255
    # at a straight edge the blurred mask is one half: that becomes 0
    return np.clip(2 * soft - 1, 0, 1) * hard


def _widened(low: int, high: int, wanted: int, limit: int) -> tuple[int, int]:
    """An interval of at least `wanted`, about the middle of this one, within 0 and `limit`."""
    length = max(high - low, min(wanted, limit))
    low = min(max(0, low - (length - (high - low)) // 2), limit - length)
    return low, low + length


def _place(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a picture of that size inside another."""
    scale = min(width / size[0], height / size[1])
    wide, high = max(1, min(width, round(size[0] * scale))), max(1, min(height, round(size[1] * scale)))
    return (width - wide) // 2, (height - high) // 2, wide, high


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _blurred(pixels: np.ndarray, radius: float) -> np.ndarray:
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
