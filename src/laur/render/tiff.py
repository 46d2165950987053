"""TIFF structures, which EXIF uses too (TIFF 6.0, section 2), big-endian.

Written here because Pillow gives EXIF's UserComment the type BYTE where the standard and its readers (A1111's among
them) want UNDEFINED, and drops the EXIF directory whenever libtiff compresses. Big-endian so that Unicode in a
UserComment, which A1111 writes big-endian, agrees with the rest.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

EXIF_IFD = 0x8769
USER_COMMENT = 0x9286

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 2, 3, 4, 5, 7
_STRIP_OFFSETS = 273
_XMP = 700
_DEFLATE = 8
_HORIZONTAL_DIFFERENCES = 2


class Entry(NamedTuple):
    """One tag of a directory."""

    tag: int
    type: int
    length: int
    value: bytes


def exif_block(software: str, comment: bytes | None) -> bytes:
    """EXIF data, with the header that JPEG segments begin with: who wrote the file, and a UserComment."""
    return b"Exif\0\0" + _assemble([_ascii(305, software), *_resolution()], comment)


def tiff_file(pixels: np.ndarray, software: str | None, comment: bytes | None, packet: bytes | None) -> bytes:
    """A whole TIFF of (H, W, 3) uint8 in one deflated strip of horizontal differences (TIFF 6.0, section 14)."""
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]  # modulo 256
    strip = zlib.compress(differences.tobytes(), 6)
    height, width = pixels.shape[:2]
    entries = [
        _long(256, width),
        _long(257, height),
        _short(258, 8, 8, 8),
        _short(259, _DEFLATE),
        _short(262, 2),  # RGB
        _long(_STRIP_OFFSETS, 0),
        _short(277, 3),  # samples per pixel
        _long(278, height),  # rows per strip
        _long(279, len(strip)),
        _short(284, 1),  # samples side by side
        _short(317, _HORIZONTAL_DIFFERENCES),
        *_resolution(),
    ]
    if software is not None:
        entries.append(_ascii(305, software))
    if packet is not None:
        entries.append(Entry(_XMP, _BYTE, len(packet), packet))
    return _assemble(entries, comment, strip)


def _assemble(entries: list[Entry], comment: bytes | None, strip: bytes = b"") -> bytes:
    """Header, first directory, EXIF directory if there is a comment, strip."""
    inner = []
    if comment is not None:
        inner = [Entry(0x9000, _UNDEFINED, 4, b"0232"), Entry(USER_COMMENT, _UNDEFINED, len(comment), comment)]
        entries = [*entries, _long(EXIF_IFD, 0)]
    # offsets do not change lengths: the first directory is laid out once to know where the others begin
    exif_start = 8 + len(_directory(entries, 8))
    exif = _directory(inner, exif_start) if inner else b""
    places = {EXIF_IFD: exif_start, _STRIP_OFFSETS: exif_start + len(exif)}
    entries = [_long(e.tag, places[e.tag]) if e.tag in places else e for e in entries]
    return struct.pack(">2sHI", b"MM", 42, 8) + _directory(entries, 8) + exif + strip


def _directory(entries: list[Entry], start: int) -> bytes:
    """A directory that stands at `start`, followed by those of its values that are longer than four bytes."""
    table = struct.pack(">H", len(entries))
    values = b""
    values_start = start + 2 + 12 * len(entries) + 4
    for entry in sorted(entries):
        table += struct.pack(">HHI", entry.tag, entry.type, entry.length)
        if len(entry.value) <= 4:
            table += entry.value.ljust(4, b"\0")
        else:
            table += struct.pack(">I", values_start + len(values))
            values += entry.value + b"\0" * (len(entry.value) % 2)  # values begin at even places
    return table + struct.pack(">I", 0) + values


def _resolution() -> list[Entry]:
    """72 dots an inch, as nothing better is known and baseline readers want something."""
    dots = struct.pack(">II", 72, 1)
    return [Entry(282, _RATIONAL, 1, dots), Entry(283, _RATIONAL, 1, dots), _short(296, 2)]


def _ascii(tag: int, text: str) -> Entry:
    value = text.encode("ascii", "replace") + b"\0"
    return Entry(tag, _ASCII, len(value), value)


def _short(tag: int, *values: int) -> Entry:
    return Entry(tag, _SHORT, len(values), struct.pack(f">{len(values)}H", *values))


def _long(tag: int, value: int) -> Entry:
    return Entry(tag, _LONG, 1, struct.pack(">I", value))
