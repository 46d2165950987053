"""How alike two pictures are, and what `laur reproduce` says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from laur.render import registry
from laur.render.embedded import pixels_sha256
from laur.render.metadata import Found, read

CLOSE_DB = 30.0
"""From here on two pictures are called close: other arithmetic (bf16, a GPU) gives more, another seed far less."""


class Likeness(StrEnum):
    """The three things that a comparison can end with."""

    IDENTICAL = "identical"
    CLOSE = "close"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A picture drawn again, against the file that told how."""

    likeness: Likeness
    psnr: float
    """dB; infinite when identical, NaN when the sizes differ."""
    line: str
    """For the user."""

    @property
    def exit_code(self) -> int:
        """1 if different, otherwise 0."""
        return int(self.likeness is Likeness.DIFFERENT)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays of one shape; infinite when identical.

    Raises ValueError for other types or different shapes.
    """
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"two uint8 arrays of one shape, not {a.shape} {a.dtype} and {b.shape} {b.dtype}")
    # rows at a time: the differences of a large picture need not all be in memory
    step = max(1, 2**20 // max(1, a[:1].size))
    total = 0
    for start in range(0, len(a), step):
        difference = a[start : start + step].astype(np.int32) - b[start : start + step]
        total += int(np.square(difference).sum(dtype=np.int64))
    return math.inf if total == 0 else 10 * math.log10(255.0**2 * a.size / total)


def judge(found: Found, drawn: np.ndarray) -> Verdict:
    """Compare what a file holds with the picture drawn again from it, (H, W, 3) uint8.

    For a lossy format `drawn` is encoded and decoded the same way first, so that only the drawing is compared.
    """
    if found.pixels.shape != drawn.shape:
        (height, width), (h, w) = found.pixels.shape[:2], drawn.shape[:2]
        line = f"different: the file holds {width}x{height} pixels, the picture drawn again {w}x{h}"
        return Verdict(likeness=Likeness.DIFFERENT, psnr=math.nan, line=line)
    value = psnr(found.pixels, _as_in_file(drawn, found.format))
    redrawn = found.recorded_sha256 == pixels_sha256(drawn)
    if value == math.inf:
        how = "" if registry.get(found.format).lossless else f", after the same {found.format} encoding"
        return Verdict(likeness=Likeness.IDENTICAL, psnr=value, line=f"identical: every pixel is the same{how}")
    edited = "; it equals what was drawn at first, so the file was changed since" if redrawn else ""
    if value >= CLOSE_DB:
        return Verdict(likeness=Likeness.CLOSE, psnr=value, line=f"close: PSNR {value:.1f} dB{edited}")
    return Verdict(likeness=Likeness.DIFFERENT, psnr=value, line=f"different: PSNR {value:.1f} dB{edited}")


def _as_in_file(pixels: np.ndarray, format: str) -> np.ndarray:
    renderer = registry.get(format)
    if renderer.lossless:
        return pixels
    from PIL import Image

    return read(renderer.render(Image.fromarray(np.ascontiguousarray(pixels)))).pixels
