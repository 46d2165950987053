"""Pillow images to files' bytes, with what tells how they were made where each container keeps such things.

| format | `parameters`           | record                      | source type |
|--------|------------------------|-----------------------------|-------------|
| PNG    | text chunk             | text chunk `laur`           | XMP         |
| others | EXIF UserComment       | XMP `laur:record`           | XMP         |

A JPEG segment holds 64 kB: a longer record goes on in extended XMP, a longer `parameters` is left out.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from laur.render import xmp
from laur.render.embedded import Embedded
from laur.render.tiff import exif_block, tiff_file

_UNICODE_MARK = b"UNICODE\0"
_SEGMENT_LIMIT = 65_533


def encode_png(image: Image.Image, embedded: Embedded | None) -> bytes:
    """PNG with `parameters` and `laur` text chunks and an XMP chunk."""
    if embedded is None:
        return _save(image, "PNG")
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", _encodable(embedded.parameters))
    chunks.add_text("laur", embedded.record)
    chunks.add_itxt("XML:com.adobe.xmp", xmp.packet(embedded.software).decode())
    return _save(image, "PNG", pnginfo=chunks)


def encode_jpeg(image: Image.Image, embedded: Embedded | None) -> bytes:
    """JPEG at quality 95 without chroma subsampling: flat colours beside each other stay clean."""
    options: dict[str, Any] = {"quality": 95, "subsampling": 0, "optimize": True}
    if embedded is None:
        return _save(image, "JPEG", **options)
    main, portions = xmp.jpeg_packets(embedded.software, embedded.record)
    extra = b"".join(b"\xff\xe1" + struct.pack(">H", len(p) + 2) + p for p in portions)
    exif = exif_block(embedded.software, _comment(embedded))
    if len(exif) > _SEGMENT_LIMIT:
        exif = exif_block(embedded.software, None)
    return _save(image, "JPEG", exif=exif, xmp=main, extra=extra, **options)


def encode_webp(image: Image.Image, embedded: Embedded | None) -> bytes:
    """WebP at quality 92."""
    return _save(image, "WEBP", quality=92, method=4, **_exif_and_xmp(embedded))


def encode_avif(image: Image.Image, embedded: Embedded | None) -> bytes:
    """AVIF at quality 85 without chroma subsampling."""
    return _save(image, "AVIF", quality=85, subsampling="4:4:4", speed=6, **_exif_and_xmp(embedded))


def encode_tiff(image: Image.Image, embedded: Embedded | None) -> bytes:
    """TIFF, deflated."""
    pixels = np.asarray(image)
    if embedded is None:
        return tiff_file(pixels, None, None, None)
    packet = xmp.packet(embedded.software, embedded.record)
    return tiff_file(pixels, embedded.software, _comment(embedded), packet)


ENCODERS: dict[str, Callable[[Image.Image, Embedded | None], bytes]] = {
    "png": encode_png,
    "jpeg": encode_jpeg,
    "webp": encode_webp,
    "avif": encode_avif,
    "tiff": encode_tiff,
}


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _exif_and_xmp(embedded: Embedded | None) -> dict[str, bytes]:
    if embedded is None:
        return {}
    return {
        "exif": exif_block(embedded.software, _comment(embedded)),
        "xmp": xmp.packet(embedded.software, embedded.record),
    }


def _comment(embedded: Embedded) -> bytes:
    """As A1111 writes it: marked as Unicode and big-endian UTF-16, which is also the order of our EXIF blocks."""
    return _UNICODE_MARK + _encodable(embedded.parameters).encode("utf-16-be")


def _encodable(text: str) -> str:
    """Without lone surrogates, which no encoding takes; the record keeps them."""
    return text.encode("utf-8", "replace").decode()
