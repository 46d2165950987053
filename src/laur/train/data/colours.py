"""Names of colours: to paint what has none, and to say what a picture shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

PAINTS = {
    "black": "#111111",
    "red": "#e02424",
    "blue": "#2563eb",
    "green": "#16a34a",
    "orange": "#f97316",
    "purple": "#7c3aed",
    "pink": "#ec4899",
    "yellow": "#eab308",
    "teal": "#0d9488",
    "brown": "#8b5a2b",
    "gray": "#6b7280",
    "sky blue": "#0ea5e9",
    "gold": "#c99700",
    "dark blue": "#1e3a8a",
    "lime green": "#65a30d",
    "crimson": "#9f1239",
}
"""What pictures of one colour are painted with."""

HUES = {
    "black": (20, 20, 20),
    "white": (255, 255, 255),
    "gray": (130, 135, 140),
    "red": (222, 40, 40),
    "orange": (245, 130, 30),
    "yellow": (250, 205, 40),
    "green": (70, 165, 70),
    "teal": (20, 150, 150),
    "light blue": (130, 200, 245),
    "blue": (40, 100, 220),
    "purple": (130, 70, 200),
    "pink": (245, 130, 180),
    "brown": (130, 85, 50),
    "beige": (240, 215, 180),
}
"""What pictures show, and captions say of them."""
PAPER = 245
"""Pixels whose channels all lie above it are background."""
_SHARE = 0.13
"""A colour is named from this part of what is no background."""


def nearest(pixels: NDArray[np.int32]) -> NDArray[np.intp]:
    """Of RGB pixels (n, 3), the index of the nearest of `HUES` to each."""
    import numpy as np

    table = np.array(list(HUES.values()))
    return ((pixels[:, None] - table[None]) ** 2).sum(2).argmin(1)


def dominant(picture: Image, most: int = 3) -> list[str]:
    """Names of up to `most` colours that cover a picture but for its white background, the commonest first."""
    import numpy as np

    pixels = np.asarray(picture.convert("RGB"))[::8, ::8].reshape(-1, 3).astype(np.int32)
    pixels = pixels[pixels.min(1) < PAPER]
    if not len(pixels):
        return []
    shares = np.bincount(nearest(pixels), minlength=len(HUES)) / len(pixels)
    names = list(HUES)
    return [names[i] for i in np.argsort(-shares, kind="stable")[:most] if shares[i] > _SHARE]
