"""Rendering SVG, and laying pictures on a white square."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from laur.core.errors import MissingDependencyError
from laur.train.data.picture import Skip

if TYPE_CHECKING:
    from PIL.Image import Image

MARGIN = 8
"""Pixels of 256 that stay white about a picture."""
FLAT = 4.0
"""Standard deviation of grey levels below which nothing is to be seen."""
INK = "#111111"


def render_svg(svg: str, size: int) -> Image:
    """RGBA, `size` pixels a side. Raises Skip for what cannot be drawn."""
    from PIL import Image

    try:
        import resvg_py
    except ImportError:
        raise MissingDependencyError(
            "drawing SVG needs resvg-py; install it with: pip install 'lcm-laur[train]'"
        ) from None
    try:
        drawn = resvg_py.svg_to_bytes(
            svg_string=svg.replace("currentColor", INK), width=size, height=size, skip_system_fonts=True, dpi=96
        )
        return Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of its Rust code is no Exception
        raise Skip(f"cannot be drawn: {' '.join(str(error).split())[:100]}") from None


def read_picture(content: bytes) -> Image:
    """RGBA, turned upright. Raises Skip."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as image:
            return ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Skip(f"cannot be read: {' '.join(str(error).split())[:100]}") from None


def painted(picture: Image, colour: str) -> Image:
    """The shape in one colour."""
    from PIL import Image

    alpha = picture.getchannel("A")
    plain = Image.new("RGBA", picture.size, colour)
    plain.putalpha(alpha)
    return plain


def on_white(picture: Image) -> Image:
    """RGB."""
    from PIL import Image

    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def centred(picture: Image, size: int, *, trim: bool = False, pixel_art: bool = False) -> Image:
    """RGB on a white square with a margin. Pixel art is enlarged by whole numbers. Raises Skip where nothing shows."""
    from PIL import Image

    box = picture.getchannel("A").getbbox()
    if box is None:
        raise Skip("blank: nothing is drawn")
    if trim:
        picture = picture.crop(box)
    width, height = picture.size
    room = size - 2 * round(MARGIN * size / 256)
    scale = min(room / width, room / height)
    if pixel_art:
        scale = max(1, int(scale))
    new = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = picture.resize(new, Image.Resampling.NEAREST if pixel_art else Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(
        picture.crop((0, 0, size, size)), ((size - min(new[0], size)) // 2, (size - min(new[1], size)) // 2)
    )
    return not_blank(canvas.convert("RGB"))


def not_blank(image: Image) -> Image:
    """The RGB picture itself. Raises Skip where it is of one colour, as near as `FLAT` says."""
    import numpy as np

    if float(np.asarray(image, dtype=np.float32).std()) < FLAT:
        raise Skip("blank: all of one colour")
    return image
