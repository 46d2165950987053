"""Read from a picture's file how it was made: by Laur, exactly; by A1111 and its kin, as far as they say."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import LaurError, PictureError
from laur.core.recipe import Recipe
from laur.render import registry, xmp
from laur.render.a1111 import parse_parameters
from laur.render.embedded import Provenance, pixels_sha256

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_READABLE = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF")
_TEXT_LIMIT = 4_000_000
"""Characters of metadata that are looked at."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """What a file's pixels are and what it says of them."""

    path: Path | None
    """None when read from bytes."""
    format: str
    """Of the content, whatever the file's name says."""
    pixels: np.ndarray
    """(H, W, 3) uint8, decoded."""
    recipe: Recipe | None = None
    """Laur's own, exact."""
    provenance: Provenance | None = None
    parameters: str | None = None
    """A1111's text, as found."""
    parsed: dict[str, str] = field(default_factory=dict)
    """The same by A1111's rules."""
    recorded_sha256: str | None = None
    """Of the pixels as they were drawn, before any lossy encoding."""
    source_type: str | None = None
    """IPTC's digital source type, a URL."""
    problem: str | None = None
    """One line on why there is no recipe although the file holds something of Laur's."""

    @cached_property
    def pixels_sha256(self) -> str:
        """Of the pixels in the file now."""
        return pixels_sha256(self.pixels)

    @property
    def untouched(self) -> bool:
        """Whether the pixels are those that were drawn; never so in a lossy format."""
        return self.recorded_sha256 == self.pixels_sha256


def read(source: str | Path | bytes) -> Found:
    """Read a PNG, JPEG, WebP, AVIF or TIFF file, or its bytes.

    Raises PictureError, one line, if there is no such file or it is not a whole picture. Metadata that cannot be read
    is no error: see `Found.problem`.
    """
    path = None if isinstance(source, bytes) else Path(source)
    name = "the picture" if path is None else str(path)
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which we find out for ourselves, and of sizes that Laur may well have drawn
        warnings.simplefilter("ignore")
        image = _open(_content(source), name)
        texts = _texts(image)
        packet = _xmp(image)
        parameters = texts.get("parameters") or _user_comment(image)
    return Found(
        path=path,
        format=(image.format or "").lower().replace("mpo", "jpeg"),
        pixels=_pixels(image),
        parameters=parameters,
        parsed=parse_parameters(parameters) if parameters else {},
        source_type=packet.source_type,
        **_read_record(texts.get("laur") or packet.record),
    )


def _content(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except FileNotFoundError:
        raise PictureError(f"there is no file {str(source)!r}; check the path") from None
    except IsADirectoryError:
        raise PictureError(f"{str(source)!r} is a folder; name a picture in it") from None
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot read {str(source)!r}: {_reason(error)}") from None


def _open(content: bytes, name: str) -> Image.Image:
    """The decoded image. Every way in which Pillow's decoders fail becomes one line."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content), formats=_READABLE)
        image.load()
    except UnidentifiedImageError:
        known = ", ".join(registry.formats())
        raise PictureError(f"{name} is not a picture that Laur can read; it reads {known}") from None
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name} is too large a picture: {_reason(error)}") from None
    except MemoryError:
        raise PictureError(f"{name} is too large a picture for this machine's memory") from None
    except Exception as error:  # decoders raise anything on damaged bytes: RuntimeError, SyntaxError, struct.error …
        raise PictureError(f"{name} is damaged or cut short: {_reason(error)}") from None
    return image


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _pixels(image: Image.Image) -> np.ndarray:
    import numpy as np

    return np.array(image.convert("RGB"))


def _texts(image: Image.Image) -> dict[str, str]:
    """PNG's text chunks, those behind the pixels included."""
    found = getattr(image, "text", {}) if image.format == "PNG" else {}
    return {key: str(value) for key, value in found.items() if len(value) <= _TEXT_LIMIT}


def _xmp(image: Image.Image) -> xmp.XmpFound:
    data = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    found = xmp.parse(data) if len(data) <= _TEXT_LIMIT else xmp.XmpFound()
    if found.record is None and found.extended:
        segments = [segment for _, segment in getattr(image, "applist", [])]
        more = xmp.join_extended(found.extended, segments)
        found = xmp.XmpFound(found.source_type or more.source_type, more.record)
    return found


def _user_comment(image: Image.Image) -> str | None:
    """EXIF's UserComment: eight bytes that name the encoding, then the text."""
    from laur.render.tiff import EXIF_IFD, USER_COMMENT

    try:
        raw: Any = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
    except Exception:  # as above: anything, on damaged bytes
        return None
    if isinstance(raw, str):
        return raw.strip("\0 ") or None
    if not isinstance(raw, bytes) or len(raw) > _TEXT_LIMIT:
        return None
    mark, text = raw[:8], raw[8:]
    if mark == b"UNICODE\0":
        decoded = text.decode(_utf16_order(text), "replace")
    else:
        decoded = (text if mark in {b"ASCII\0\0\0", bytes(8)} else raw).decode("utf-8", "replace")
    return decoded.strip("\0\ufeff ") or None


def _utf16_order(text: bytes) -> str:
    """Big-endian as A1111 writes it; some programs follow the file's own order, which Latin text gives away."""
    little = text.startswith(b"\xff\xfe") or text[1::2].count(0) > text[0::2].count(0)
    return "utf-16-le" if little else "utf-16-be"


def _read_record(text: str | None) -> dict[str, Any]:
    """Recipe, provenance, hash and problem, as far as the record can be read."""
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {"problem": "its record of how it was made is damaged; nothing in it can be trusted"}
    if not isinstance(values, dict) or not isinstance(values.get("recipe"), dict):
        return {"problem": "its record of how it was made holds no recipe"}
    found: dict[str, Any] = {}
    try:
        found["recipe"] = Recipe.from_dict(values["recipe"])
    except LaurError as error:
        made_by = str((values.get("provenance") or {}).get("laur", "unknown")) if _has_provenance(values) else "unknown"
        found["problem"] = f"its recipe (Laur {made_by}) cannot be drawn by this version: {error}"
    except (TypeError, ValueError, AttributeError) as error:
        found["problem"] = f"its recipe cannot be read: {_reason(error)}"
    if _has_provenance(values):
        try:
            found["provenance"] = Provenance.from_dict(values["provenance"])
        except (TypeError, ValueError, KeyError, AttributeError):
            found["provenance"] = None
    recorded = values.get("pixels_sha256")
    found["recorded_sha256"] = recorded if isinstance(recorded, str) else None
    return found


def _has_provenance(values: dict[str, Any]) -> bool:
    return isinstance(values.get("provenance"), dict)
