"""What a .safetensors file holds, read from its header alone, and in plain words what is wrong with one that is none.

Format: 8 bytes of header length (little endian), a JSON header of that length, then the tensors' bytes without gaps
(https://github.com/huggingface/safetensors#format). The header says how long the file must be, so a truncated download
is known before anything is loaded.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

HEADER_LIMIT = 100_000_000
"""Bytes; the format's own limit."""
PICKLES = frozenset({".ckpt", ".bin", ".pt", ".pth", ".pkl"})
"""Suffixes of pickle files, in which weights are stored beside code that runs when they are read."""

_STARTS = (
    (
        (b"PK\x03\x04", *(bytes([0x80, version]) for version in range(2, 6))),
        "is a pickle under another name, which can run code when it is read; convert it to .safetensors",
    ),
    ((b"version https://git-lfs",), "is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'"),
    ((b"<!DOCTYPE", b"<!doctype", b"<html"), "is a web page, not weights; download the file itself"),
    ((b"GGUF",), "is a GGUF file; give the .safetensors one"),
)


class WeightsFileError(ValueError):
    """What is wrong with a file, as the rest of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of a header."""

    dtype: str
    """As the format writes it: F32, F16, BF16, F8_E4M3 …"""
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header. Raises WeightsFileError for a file that is damaged or another format, and OSError."""
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(64)
        length = _header_length(start, size)
        file.seek(8)
        entries = _parse(file.read(length))
    metadata: object = entries.pop("__metadata__", None)
    tensors = _tensors(entries)
    expected = 8 + length + sum(tensor.nbytes for tensor in tensors.values())
    if size != expected:
        fault = "is truncated" if size < expected else "is damaged"
        raise WeightsFileError(f"{fault}: it has {size:,} bytes and should have {expected:,}; download it again")
    words = cast("dict[object, object]", metadata) if isinstance(metadata, dict) else {}
    return Header(tensors, {str(key): str(value) for key, value in words.items()})


def _header_length(start: bytes, size: int) -> int:
    if size == 0:
        raise WeightsFileError("is empty; download it again")
    length = int.from_bytes(start[:8], "little")
    if size < 10 or not 2 <= length <= HEADER_LIMIT or not start[8:].lstrip().startswith(b"{"):
        # asked only now: a header of 640 bytes begins with the very bytes 80 02 of a pickle
        for magics, fault in _STARTS:
            if start.startswith(magics):
                raise WeightsFileError(fault)
        raise WeightsFileError("is not a .safetensors file, whatever its name says; download it again")
    if size < 8 + length:
        raise WeightsFileError(
            f"is truncated: it has {size:,} bytes and its header alone should have {length:,}; download it again"
        )
    return length


def _parse(header: bytes) -> dict[str, Any]:
    try:
        entries: object = json.loads(header)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise WeightsFileError("is damaged: its header is not JSON; download it again")
    return cast("dict[str, Any]", entries)


def _tensors(entries: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Each entry in the order of the bytes, which must follow one another without gap or overlap."""
    tensors: dict[str, TensorInfo] = {}
    place = 0
    try:
        for key, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            tensor = TensorInfo(str(entry["dtype"]), tuple(int(side) for side in entry["shape"]), end - begin)
            if begin != place or not _fits(tensor):
                raise ValueError(key)
            tensors[key], place = tensor, end
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        raise WeightsFileError("is damaged: its header does not describe tensors; download it again") from None
    return tensors


def _fits(tensor: TensorInfo) -> bool:
    if tensor.nbytes < 0 or any(side < 0 for side in tensor.shape):
        return False
    digits = "".join(char for char in tensor.dtype.split("_")[0] if char.isdigit())
    bits = int(digits) if digits else 8  # BOOL
    return math.prod(tensor.shape) * bits == tensor.nbytes * 8
