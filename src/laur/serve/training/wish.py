"""What a training is to make, and the pictures that it learns from."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from laur.core.errors import DataError

NAME = r"^[a-z0-9][a-z0-9_-]{0,47}$"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
TEXTS = frozenset({".txt", ".jsonl"})
FILES, UNPACKED = 2000, 512 * 2**20
"""Of an archive: the most files, and bytes when unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One training."""

    task: str
    """style or lcm-lora."""
    name: str
    """Of the adapter that comes out."""
    archive: str
    """The zip file's key in the store."""
    checkpoint: str | None = None
    """None is the worker's own."""
    updates: int
    batch: int | None = None
    lr: float | None = None
    rank: int | None = None
    size: int | None = None
    """Pixels of a side."""
    seed: int = 0
    trigger: str = ""
    """Put before each caption, and by itself before prompts that use the adapter."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From `to_dict`'s form; what a later version added is ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def archive_key(tenant: str, content: bytes) -> str:
    """Where a tenant's archive lies in the store."""
    return hashlib.sha256(b"training " + tenant.encode() + b" " + content).hexdigest() + ".zip"


def weights_key(content: bytes) -> str:
    """Where an adapter's file lies in the store."""
    return hashlib.sha256(content).hexdigest() + ".safetensors"


def check_archive(content: bytes) -> int:
    """How many pictures a zip file holds. Raises DataError for what cannot be learned from."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = [entry for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, ValueError, OSError):
        raise DataError("input_images is not a zip file of pictures") from None
    if len(found) > FILES or sum(entry.file_size for entry in found) > UNPACKED:
        raise DataError(f"the zip file holds more than {FILES:,} files or {UNPACKED // 2**20} MiB; send fewer pictures")
    pictures = sum(_suffix(entry.filename) in SUFFIXES for entry in found)
    if not pictures:
        raise DataError(f"the zip file holds no pictures; they end in {', '.join(sorted(SUFFIXES))}")
    return pictures


def unpack(content: bytes, folder: Path) -> None:
    """Pictures and captions of a checked archive, all in one folder. Raises DataError, OSError.

    No name from the archive becomes a path: of folders and odd characters only a readable rest is kept, as names may
    be captions.
    """
    check_archive(content)
    folder.mkdir(parents=True, exist_ok=True)
    left = UNPACKED
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            suffix = _suffix(entry.filename)
            if entry.is_dir() or suffix not in SUFFIXES | TEXTS or PurePosixPath(entry.filename).name.startswith("."):
                continue
            try:
                with archive.open(entry) as file:
                    data = file.read(left + 1)  # whatever its header said
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, ValueError, EOFError):
                raise DataError("the zip file is damaged, or locked with a password") from None
            if (left := left - len(data)) < 0:
                raise DataError(f"the zip file unpacks to more than {UNPACKED // 2**20} MiB")
            (folder / (_plain(PurePosixPath(entry.filename).stem) + suffix)).write_bytes(data)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _plain(stem: str) -> str:
    return re.sub(r"[^\w .,()'-]", " ", stem).strip(" .")[:120] or "picture"
