"""Reading a .safetensors file, with one plain line for each way in which it can be none.

The header is read and checked by itself, so that what a file holds is known before its weights are read. Format:
8 bytes of header length (little endian), a JSON header of that length, then the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from laur.core.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

HEADER_LIMIT = 100_000_000
"""Bytes; the format's own limit."""
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
_STARTS = (
    (b"PK\x03\x04", "is a pickle file, which can run code when it is read; convert it to .safetensors"),
    (b"\x80\x02", "is a pickle file, which can run code when it is read; convert it to .safetensors"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'"),
    (b"<!DOCTYPE", "is a web page, not an adapter; download the file itself"),
    (b"<html", "is a web page, not an adapter; download the file itself"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of the header."""

    dtype: str
    """As the format writes it: F32, F16, BF16 …"""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header. Raises AdapterError, one line, for whatever is wrong with the file."""
    if path.suffix.lower() in PICKLES:
        raise AdapterError(f"{path.name} {_STARTS[0][1]}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
            _check_start(path, start, size)
            length = int.from_bytes(start[:8], "little")
            file.seek(8)
            entries = _parse(path, file.read(length))
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}") from None
    metadata = _metadata(entries.pop("__metadata__", None))
    try:
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
        tensors = {key: TensorInfo(str(e["dtype"]), tuple(map(int, e["shape"]))) for key, e in entries.items()}
    except (KeyError, TypeError, ValueError, IndexError):
        raise AdapterError(f"{path.name} is damaged: its header does not describe tensors; download it again") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        fault = "is truncated" if size < expected else "is damaged"
        raise AdapterError(f"{path.name} {fault}: {size:,} bytes where {expected:,} belong; download it again")
    return Header(tensors, metadata)


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """All tensors, on the CPU, if the file still has that content."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise AdapterError(f"{path.name} changed on disk while it was in use; load it again")
    try:
        return load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"{path.name} is damaged: {reason}; download it again") from None


def file_sha256(path: Path) -> str:
    """sha256 of the whole file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}") from None


def _check_start(path: Path, start: bytes, size: int) -> None:
    for magic, fault in _STARTS:
        if start.startswith(magic):
            raise AdapterError(f"{path.name} {fault}")
    if size < 10:
        raise AdapterError(f"{path.name} has {size} bytes and holds nothing; download it again")
    length = int.from_bytes(start[:8], "little")
    if length > HEADER_LIMIT or not start[8:].lstrip().startswith(b"{"):
        raise AdapterError(f"{path.name} is not a .safetensors file; give a LoRA in that format")
    if size < 8 + length:
        raise AdapterError(f"{path.name} is truncated: {size:,} bytes, with a header of {length:,}; download it again")


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    try:
        entries: object = json.loads(header)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise AdapterError(f"{path.name} is not a .safetensors file; give a LoRA in that format")
    return cast("dict[str, Any]", entries)


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict):
        return {}
    return {str(key): str(value) for key, value in cast("dict[object, object]", found).items()}
