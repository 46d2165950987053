"""A picture of which only the colours are left."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laur.render.picture import Picture

CELLS = 8
"""What is left of the longer side, before it is spread out again."""


def blurred(picture: Picture) -> Picture:
    """The same size and recipe; what it shows cannot be made out any more, nor brought back."""
    import numpy as np
    from PIL import Image

    image = picture.image
    scale = CELLS / max(image.size)
    small = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX
    )
    return dataclasses.replace(picture, pixels=np.asarray(small.resize(image.size, Image.Resampling.BICUBIC)))
