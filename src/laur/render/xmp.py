"""XMP packets: IPTC's statement that a picture is synthetic, and our record where a container has no text chunks.

ISO 16684-1 (XMP part 1) for the data model, part 3 for JPEG's extended packets; IPTC's NewsCodes for the source type.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.sax.saxutils import escape

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC: created by a model that was trained on sampled content."""

JPEG_LIMIT = 65_000
"""Bytes of a packet that fit one APP1 segment, with room to spare."""
EXTENDED_HEADER = b"http://ns.adobe.com/xmp/extension/\0"

_PORTION = 65_400
"""Bytes of an extended packet in each segment; XMP part 3, section 1.1.3.1."""
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_NOTE = "http://ns.adobe.com/xmp/note/"
_LAUR = "urn:laur:metadata:1.0#"


@dataclass(frozen=True, slots=True)
class XmpFound:
    """What a packet says, as far as it concerns us."""

    source_type: str | None = None
    record: str | None = None
    extended: str | None = None
    """GUID of the extended packet that holds the rest."""


def packet(software: str, record: str | None = None) -> bytes:
    """A whole packet, with the record if one is given."""
    return _wrap(_description(software, {"laur:record": record} if record else {}))


def jpeg_packets(software: str, record: str) -> tuple[bytes, list[bytes]]:
    """The packet, and the payloads of APP1 segments for a record that does not fit it."""
    whole = packet(software, record)
    if len(whole) <= JPEG_LIMIT:
        return whole, []
    extension = _rdf({"laur:record": record}).encode()
    guid = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper()
    head = EXTENDED_HEADER + guid.encode()
    portions = [
        head + struct.pack(">II", len(extension), start) + extension[start : start + _PORTION]
        for start in range(0, len(extension), _PORTION)
    ]
    return _wrap(_description(software, {"xmpNote:HasExtendedXMP": guid})), portions


def parse(data: bytes) -> XmpFound:
    """What a packet says. One that cannot be read says nothing; document types are not expanded."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        return XmpFound()
    try:
        root = ElementTree.fromstring(data.strip(b"\0 \r\n\t"))
    except (ElementTree.ParseError, ValueError, LookupError):
        return XmpFound()
    return XmpFound(
        source_type=_property(root, _IPTC, "DigitalSourceType"),
        record=_property(root, _LAUR, "record"),
        extended=_property(root, _NOTE, "HasExtendedXMP"),
    )


def join_extended(guid: str, segments: Iterable[bytes]) -> XmpFound:
    """What the extended packet `guid` says, from the payloads of a JPEG's APP1 segments in any order."""
    head = EXTENDED_HEADER + guid.encode("ascii", "replace")
    portions: dict[int, bytes] = {}
    length = 0
    for segment in segments:
        if segment.startswith(head) and len(segment) >= len(head) + 8:
            length, offset = struct.unpack_from(">II", segment, len(head))
            portions[offset] = segment[len(head) + 8 :]
    data = b"".join(portions[offset] for offset in sorted(portions))
    return parse(data) if data and len(data) == length else XmpFound()


def _property(root: ElementTree.Element, namespace: str, name: str) -> str | None:
    """A simple property; programs that rewrite packets turn elements into attributes and back."""
    key = f"{{{namespace}}}{name}"
    for description in root.iter(f"{{{_RDF}}}Description"):
        value = description.get(key) or description.findtext(key)
        if value:
            return value.strip()
    return None


def _description(software: str, more: dict[str, str]) -> str:
    return _rdf({"Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE, "xmp:CreatorTool": software, **more})


def _rdf(properties: dict[str, str]) -> str:
    spaces = {"Iptc4xmpExt": _IPTC, "xmp": _XMP, "xmpNote": _NOTE, "laur": _LAUR}
    used = {name.split(":", maxsplit=1)[0] for name in properties}
    declared = "".join(f' xmlns:{prefix}="{uri}"' for prefix, uri in spaces.items() if prefix in used)
    inside = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in properties.items())
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
        f'<rdf:Description rdf:about=""{declared}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>'
    )


def _wrap(rdf: str) -> bytes:
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{rdf}\n<?xpacket end="r"?>'.encode()
