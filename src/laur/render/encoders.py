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
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from laur.render import xmp
from laur.render.embedded import Embedded

EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
UNICODE_MARK = b"UNICODE\0"

_SOFTWARE = 0x0131
_XMP_TAG = 700
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
    exif = _exif(embedded).tobytes()
    if len(exif) > _SEGMENT_LIMIT:
        exif = _exif(embedded, comment=False).tobytes()
    return _save(image, "JPEG", exif=exif, xmp=main, extra=extra, **options)


def encode_webp(image: Image.Image, embedded: Embedded | None) -> bytes:
    """WebP at quality 92."""
    return _save(image, "WEBP", quality=92, method=4, **_exif_and_xmp(embedded))


def encode_avif(image: Image.Image, embedded: Embedded | None) -> bytes:
    """AVIF at quality 85 without chroma subsampling."""
    return _save(image, "AVIF", quality=85, subsampling="4:4:4", speed=6, **_exif_and_xmp(embedded))


def encode_tiff(image: Image.Image, embedded: Embedded | None) -> bytes:
    """TIFF 6.0 in one deflated strip with horizontal differences (TIFF 6.0, section 14).

    Put together here because Pillow drops the EXIF directory whenever libtiff compresses.
    """
    pixels = np.asarray(image)
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]  # modulo 256
    strip = zlib.compress(differences.tobytes(), 6)
    tags: Any = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in {
        TiffImagePlugin.IMAGEWIDTH: image.width,
        TiffImagePlugin.IMAGELENGTH: image.height,
        TiffImagePlugin.BITSPERSAMPLE: (8, 8, 8),
        TiffImagePlugin.COMPRESSION: 8,  # deflate
        TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 2,  # RGB
        TiffImagePlugin.STRIPOFFSETS: (0,),  # Pillow adds where the directory ends
        TiffImagePlugin.SAMPLESPERPIXEL: 3,
        TiffImagePlugin.ROWSPERSTRIP: image.height,
        TiffImagePlugin.STRIPBYTECOUNTS: (len(strip),),
        TiffImagePlugin.PLANAR_CONFIGURATION: 1,
        TiffImagePlugin.PREDICTOR: 2,
    }.items():
        tags[tag] = value
    if embedded is not None:
        tags[_SOFTWARE] = embedded.software
        tags[_XMP_TAG] = xmp.packet(embedded.software, embedded.record)
        tags[EXIF_IFD] = {USER_COMMENT: _comment(embedded)}
    buffer = io.BytesIO()
    tags.save(buffer)
    buffer.write(strip)
    return buffer.getvalue()


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
    return {"exif": _exif(embedded).tobytes(), "xmp": xmp.packet(embedded.software, embedded.record)}


def _exif(embedded: Embedded, *, comment: bool = True) -> Image.Exif:
    exif = Image.Exif()
    exif[_SOFTWARE] = embedded.software
    if comment:
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = _comment(embedded)
    return exif


def _comment(embedded: Embedded) -> bytes:
    """As A1111 writes it: marked as Unicode and big-endian UTF-16, whatever the byte order of the rest."""
    return UNICODE_MARK + _encodable(embedded.parameters).encode("utf-16-be")


def _encodable(text: str) -> str:
    """Without lone surrogates, which no encoding takes; the record keeps them."""
    return text.encode("utf-8", "replace").decode()
