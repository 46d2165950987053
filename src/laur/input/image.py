"""Pictures from outside: read from anything, brought to one canonical form, named by content.

A picture is canonical as RGB, 8 bits, upright (EXIF's orientation applied), transparency over white, in its own size;
a mask as grey, 8 bits, upright: white is drawn anew, black is kept. Its name is sha256 over its kind, its size and
these bytes, so that the same picture has one name whatever file it came in. Colour profiles are not applied.
"""

from __future__ import annotations

import hashlib
import io
import os
import reprlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from laur.core.errors import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

    PictureSource = Image | str | os.PathLike[str] | bytes
    """A Pillow image, a file's path or its bytes."""

PIXEL_LIMIT = 64 * 2**20
"""Pixels of a picture that is read, some 8192 x 8192: what a small file unpacks to is bounded before it is."""
FILE_LIMIT = 128 * 2**20
"""Bytes of a file that is read."""
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
"""As Pillow names them; of several frames the first is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """What is read of a file that somebody gives."""

    pixels: int = PIXEL_LIMIT
    formats: tuple[str, ...] = FORMATS


ANYTHING = ReadLimits()


@dataclass(frozen=True, eq=False)
class InputPicture:
    """A canonical picture (H, W, 3) or mask (H, W), uint8. Its pixels are not written to."""

    pixels: np.ndarray

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.shape[2:] not in {(), (3,)}:
            raise ValueError(f"(H, W, 3) or (H, W) uint8, not {self.pixels.shape} {self.pixels.dtype}")

    @cached_property
    def ref(self) -> str:
        """sha256:HASH, what a Recipe names it by."""
        height, width = self.pixels.shape[:2]
        digest = hashlib.sha256(f"laur {'mask' if self.is_mask else 'picture'} {width}x{height}\n".encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return f"sha256:{digest.hexdigest()}"

    @property
    def is_mask(self) -> bool:
        """Whether it has one channel."""
        return self.pixels.ndim == 2

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def image(self) -> Image:
        """As a Pillow image, RGB or L."""
        from PIL import Image

        return Image.fromarray(self.pixels)


def read_picture(source: PictureSource, limits: ReadLimits = ANYTHING) -> InputPicture:
    """A picture in its canonical form. Raises PictureError: no such file, damaged, no known format, too large."""
    image = _eight_bits(_opened(source, limits))
    if image.mode == "RGBA":
        from PIL import Image

        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return InputPicture(np.array(image.convert("RGB")))


def read_mask(source: PictureSource, limits: ReadLimits = ANYTHING, *, strokes: bool = False) -> InputPicture:
    """A mask in its canonical form: a picture's lightness, or where it has transparency, how transparent it is.

    So white on black says the same as a hole in an opaque picture. With `strokes` what is opaque is drawn anew, as on
    a layer that was painted over the picture. Raises PictureError.
    """
    image = _eight_bits(_opened(source, limits))
    if (holes := _holes(image)) is not None:
        return InputPicture(255 - holes if strokes else holes)
    return InputPicture(np.array(image.convert("RGB").convert("L") if image.mode == "RGBA" else image.convert("L")))


def read_holes(source: PictureSource, limits: ReadLimits = ANYTHING) -> InputPicture | None:
    """How transparent a picture is, as a mask; None where it is nowhere more than half. Raises PictureError."""
    holes = _holes(_eight_bits(_opened(source, limits)))
    return None if holes is None or int(holes.max()) < 128 else InputPicture(holes)


def _holes(image: Image) -> np.ndarray | None:
    """(H, W) uint8, 255 where nothing is; None for what is opaque everywhere."""
    if image.mode != "RGBA":
        return None
    alpha = np.array(image)[:, :, 3]
    return 255 - alpha if int(alpha.min()) < 255 else None


def _opened(source: PictureSource, limits: ReadLimits) -> Image:
    """Decoded and upright, in whatever mode the file has."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not isinstance(source, Image.Image):
        content, name = _content(source)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd metadata, and of sizes that our own limit bounds
                opened = Image.open(io.BytesIO(content), formats=limits.formats)
                _check_size(opened, name, limits.pixels)
                opened.load()
                return ImageOps.exif_transpose(opened)
        except PictureError:
            raise
        except UnidentifiedImageError:
            known = ", ".join(limits.formats)
            raise PictureError(f"{name} is not a picture that can be read; known are {known}") from None
        except Image.DecompressionBombError:
            raise PictureError(
                f"{name} has more than the {limits.pixels:,} pixels that are read; scale it down"
            ) from None
        except MemoryError:
            raise PictureError(f"{name} is too large a picture for this machine's memory") from None
        except Exception as error:  # decoders raise anything on damaged bytes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PictureError(f"{name} is damaged or cut short: {reason}") from None
    _check_size(source, "the picture", limits.pixels)
    return ImageOps.exif_transpose(source)


def _check_size(image: Image, name: str, most: int) -> None:
    if image.width * image.height > most:
        raise PictureError(f"{name} is {image.width}x{image.height}; at most {most:,} pixels are read; scale it down")
    if not image.width or not image.height:
        raise PictureError(f"{name} is {image.width}x{image.height}, which is no picture")


def _content(source: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    """A file's bytes, and what to call it."""
    if isinstance(source, bytes):
        if len(source) > FILE_LIMIT:
            raise PictureError(f"the picture has {len(source):,} bytes; at most {FILE_LIMIT:,} are read")
        return source, "the picture"
    if not isinstance(source, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PictureError(f"a picture is a Pillow image, a file or its bytes, not {type(source).__name__}")
    path = Path(source)
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
    except FileNotFoundError:
        raise PictureError(f"there is no picture {reprlib.repr(str(path))}; check the path") from None
    except IsADirectoryError:
        raise PictureError(f"{str(path)!r} is a folder; name a picture in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PictureError(f"cannot read the picture {reprlib.repr(str(path))}: {reason}") from None
    if len(content) > FILE_LIMIT:
        raise PictureError(f"{path} has more than the {FILE_LIMIT:,} bytes that are read; scale it down")
    return content, str(path)


def _eight_bits(image: Image) -> Image:
    """16-bit grey scaled down, which Pillow would clip; RGBA where any transparency is declared."""
    from PIL import Image

    if image.mode.startswith("I"):  # I;16 and its byte orders, and I where Pillow widened it
        deep = np.asarray(image, dtype=np.int64).clip(0, 65_535)
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.mode == "F":  # 0 to 1, as floating-point files hold light
        values = np.nan_to_num(np.asarray(image), nan=0.0)
        return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
    return image.convert("RGBA") if image.has_transparency_data else image
