"""Half-precision weights in fewer bytes.

A tensor is either kept exactly or rounded row by row, and both end in the same form: integers, split into byte planes,
each plane deflated with Huffman codes alone (weights do not repeat, but their high bits are few).

- exact (0 levels): the bits of a half, rotated so that the sign comes last and the exponent fills the high byte.
- rounded to n levels either side of zero (127: the usual 8 bits): q = round(w / s) with one scale s = top / n per row
  of the first axis, where top = max |w| is stored as a half; restored as half(q · s). Weights that were once stored so
  come back bit for bit. The sign comes last here too: 0, -1, 1, -2, 2 … are stored as 0, 1, 2, 3, 4 …

Restoring is one float32 division a row, one multiplication a weight and one rounding: the same bytes on every machine.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT = 0
"""Levels for which nothing is rounded."""
MOST = 2**14
"""Levels; more would be finer than a half."""
_BYTE = 127
"""Levels that fit one byte with their sign."""

Halves = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Layout:
    """What is needed to read a packed tensor, besides its bytes and scales."""

    levels: int
    """Either side of zero, or EXACT."""
    shape: tuple[int, ...]
    planes: tuple[int, ...]
    """Bytes of each deflated plane, the high one first."""


def encode(values: Halves, levels: int) -> tuple[Layout, bytes, Halves | None]:
    """The layout, the packed bytes and, if rounded, the largest magnitude of each row (rows,)."""
    if not 0 <= levels <= MOST:
        raise ValueError(f"a weight cannot be rounded to {levels} levels; give 1 to {MOST}, or 0 to keep it exactly")
    tops = None
    if levels == EXACT:
        raw = np.ascontiguousarray(values).view(np.uint16).ravel()
        integers = (raw << 1) | (raw >> 15)
    else:
        rows = values.reshape(len(values), -1)
        tops = np.abs(rows).max(axis=1)
        scales = _scales(tops, levels)
        divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
        signed = np.rint(rows.astype(np.float32) / divisors).astype(np.int16).ravel()
        integers = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
    planes = [(integers >> 8).astype(np.uint8)] if _planes(levels) == 2 else []
    planes.append((integers & 255).astype(np.uint8))
    packed = [_deflated(plane.tobytes()) for plane in planes]
    return Layout(levels, values.shape, tuple(map(len, packed))), b"".join(packed), tops


def decode(layout: Layout, packed: bytes, tops: Halves | None) -> Halves:
    """The weights again, in their shape. Raises ValueError for bytes that are not what `encode` gave."""
    count = math.prod(layout.shape)
    try:
        planes = _inflated(layout, packed, count)
    except zlib.error as error:
        raise ValueError(f"packed weights are damaged: {error}") from None
    if layout.levels == EXACT:
        integers = _joined(planes)
        return ((integers >> 1) | (integers << 15)).view(np.float16).reshape(layout.shape)
    if tops is None or len(tops) != layout.shape[0]:
        raise ValueError("packed weights are damaged: the scales do not fit the rows")
    codes = (_joined(planes) if _planes(layout.levels) == 2 else planes[0].astype(np.uint16)).view(np.int16)
    signed = ((codes >> 1) & 0x7FFF) ^ -(codes & 1)
    rows = signed.reshape(layout.shape[0], -1).astype(np.float32)
    rows *= _scales(tops, layout.levels)[:, None]
    return rows.astype(np.float16).reshape(layout.shape)


def _planes(levels: int) -> int:
    return 1 if 0 < levels <= _BYTE else 2


def _scales(tops: Halves, levels: int) -> NDArray[np.float32]:
    return tops.astype(np.float32) / np.float32(levels)


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(data) + packer.flush()


def _inflated(layout: Layout, packed: bytes, count: int) -> list[NDArray[np.uint8]]:
    view, start, planes = memoryview(packed), 0, []
    for size in layout.planes:
        data = zlib.decompress(view[start : start + size], -15, count)
        if len(data) != count:
            raise ValueError(f"packed weights are damaged: {len(data)} values where {count} should be")
        planes.append(np.frombuffer(data, np.uint8))
        start += size
    if len(planes) != _planes(layout.levels):
        raise ValueError(f"packed weights are damaged: {len(planes)} planes for {layout.levels} levels")
    return planes


def _joined(planes: list[NDArray[np.uint8]]) -> NDArray[np.uint16]:
    high, low = planes
    return np.bitwise_or(np.left_shift(high, 8, dtype=np.uint16), low, dtype=np.uint16)
