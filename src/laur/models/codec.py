"""Half-precision weights in fewer bytes.

A tensor is either kept exactly or rounded to a few bits per row, and both end in the same form: integers, split into
byte planes, each plane deflated with Huffman codes alone (weights do not repeat, but their high bits are few).

- exact (16 bits): the bits of a half, rotated so that the sign comes last and the exponent fills the high byte.
- rounded (2 to 15 bits): q = round(w / s) with one scale s = top / (2^(bits - 1) - 1) per row of the first axis, where
  top = max |w| is stored as a half; restored as half(q · s). Weights that were once stored so come back bit for bit.

Restoring is one float32 division a row, one multiplication a weight and one rounding: the same bytes on every machine.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT = 16
"""Bits of a half: nothing is rounded."""

Halves = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Layout:
    """What is needed to read a packed tensor, besides its bytes and scales."""

    bits: int
    shape: tuple[int, ...]
    planes: tuple[int, ...]
    """Bytes of each deflated plane, the high one first."""


def encode(values: Halves, bits: int) -> tuple[Layout, bytes, Halves | None]:
    """The layout, the packed bytes and, if rounded, the largest magnitude of each row (rows,)."""
    if not 2 <= bits <= EXACT:
        raise ValueError(f"a weight cannot be packed in {bits} bits; give 2 to {EXACT}")
    tops = None
    if bits == EXACT:
        raw = np.ascontiguousarray(values).view(np.uint16).ravel()
        integers = (raw << 1) | (raw >> 15)
    else:
        rows = values.reshape(len(values), -1)
        tops = np.abs(rows).max(axis=1)
        scales = _scales(tops, bits)
        integers = (
            np.rint(rows.astype(np.float32) / np.where(scales > 0, scales, np.float32(1))[:, None])
            .astype(np.int16)
            .ravel()
            .view(np.uint16)
        )
    planes = [(integers >> 8).astype(np.uint8)] if bits > 8 else []
    planes.append((integers & 255).astype(np.uint8))
    packed = [_deflated(plane.tobytes()) for plane in planes]
    return Layout(bits, values.shape, tuple(map(len, packed))), b"".join(packed), tops


def decode(layout: Layout, packed: bytes, tops: Halves | None) -> Halves:
    """The weights again, in their shape. Raises ValueError for bytes that are not what `encode` gave."""
    count = math.prod(layout.shape)
    try:
        planes = _inflated(layout, packed, count)
    except zlib.error as error:
        raise ValueError(f"packed weights are damaged: {error}") from None
    if layout.bits == EXACT:
        integers = _joined(planes)
        return ((integers >> 1) | (integers << 15)).view(np.float16).reshape(layout.shape)
    if tops is None or len(tops) != layout.shape[0]:
        raise ValueError("packed weights are damaged: the scales do not fit the rows")
    signed = _joined(planes).view(np.int16) if layout.bits > 8 else planes[0].view(np.int8)
    rows = signed.reshape(layout.shape[0], -1).astype(np.float32)
    rows *= _scales(tops, layout.bits)[:, None]
    return rows.astype(np.float16).reshape(layout.shape)


def _scales(tops: Halves, bits: int) -> NDArray[np.float32]:
    return tops.astype(np.float32) / np.float32(2 ** (bits - 1) - 1)


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
    if len(planes) != 1 + (layout.bits > 8):
        raise ValueError(f"packed weights are damaged: {len(planes)} planes for {layout.bits} bits")
    return planes


def _joined(planes: list[NDArray[np.uint8]]) -> NDArray[np.uint16]:
    high, low = planes
    return np.bitwise_or(np.left_shift(high, 8, dtype=np.uint16), low, dtype=np.uint16)
