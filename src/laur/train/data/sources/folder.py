"""A folder of the user's: pictures with captions from sidecar .txt files, metadata.jsonl, or the files' names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from laur.core.errors import DataError
from laur.train.data import canvas
from laur.train.data.picture import Drawn, Skip, is_fault

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".svg"}
METADATA = "metadata.jsonl"
SMALLEST = 32
"""Pixels a side below which a picture is too small to learn from."""
Captions = Literal["auto", "txt", "metadata", "names"]


@dataclass(frozen=True, slots=True)
class Picture:
    """One file."""

    name: str
    path: Path
    captions: tuple[str, ...]
    style: str
    licence: str
    origin: str

    def draw(self, size: int) -> Drawn:
        """See Record."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            if is_fault(error):
                raise
            raise Skip(f"cannot be read: {error.strerror}") from None
        if self.path.suffix.lower() == ".svg":
            image = canvas.render_svg(content.decode("utf-8", "replace"), size)
        else:
            image = canvas.read_picture(content)
        if min(image.size) < SMALLEST:
            raise Skip(f"{image.size[0]}x{image.size[1]} is too small; {SMALLEST} pixels a side are the least")
        return Drawn(canvas.not_blank(canvas.on_white(image)), self.captions)


class Folder:
    """The source. Sub-folders are looked into; their order is that of the names."""

    square = False

    def __init__(
        self,
        folder: Path,
        *,
        captions: Captions = "auto",
        style: str = "",
        trigger: str = "",
        licence: str = "",
        limit: int | None = None,
    ) -> None:
        """`trigger` is put before each caption; `style` and `licence` are written beside each picture.

        Errors: DataError where there are no pictures, or not one has a caption.
        """
        self.folder, self._settings = folder, (captions, style, trigger, licence)
        files = _pictures(folder)
        told = _metadata(folder) if captions in {"auto", "metadata"} else {}
        self._found = [(path, self._caption(path, told)) for path in files[:limit]]
        if not trigger and not any(caption for _, caption in self._found):
            raise DataError(
                f"no picture of {folder} has a caption; write one into NAME.txt beside each, or into {METADATA}"
            )

    def describe(self) -> Mapping[str, Any]:
        """See Source."""
        import hashlib

        digest = hashlib.sha256()
        for path, caption in self._found:
            state = path.stat()
            digest.update(f"{path.relative_to(self.folder)} {state.st_size} {state.st_mtime_ns} {caption}".encode())
        return {"kind": "folder", "content": digest.hexdigest(), "settings": list(self._settings)}

    def __len__(self) -> int:
        return len(self._found)

    def records(self, start: int, stop: int) -> Iterator[Picture]:
        """See Source."""
        _, style, trigger, licence = self._settings
        for path, caption in self._found[start:stop]:
            words = ", ".join(part for part in (trigger, caption) if part)
            name = path.relative_to(self.folder).as_posix()
            yield Picture(name, path, (words,) if words else (), style, licence, self.folder.name)

    def _caption(self, path: Path, told: Mapping[str, str]) -> str:
        wish = self._settings[0]
        if wish in {"auto", "metadata"} and (found := told.get(path.relative_to(self.folder).as_posix())):
            return found
        sidecar = path.with_suffix(".txt")
        if wish in {"auto", "txt"} and sidecar.is_file():
            return " ".join(sidecar.read_text(encoding="utf-8", errors="replace").split())
        if wish == "names" or (wish == "auto" and not told):
            return _from_name(path.stem)
        return ""


def _pictures(folder: Path) -> list[Path]:
    """By name, without hidden ones: other systems' notes about a picture end as it does. Errors: DataError."""
    if not folder.is_dir():
        what = f"{folder} is a file, no folder" if folder.exists() else f"there is no folder {folder}"
        raise DataError(f"{what}; give the folder that the pictures lie in")
    try:
        found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
        files = sorted(path for path in found if path.is_file())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from None
    if not files:
        raise DataError(f"{folder} holds no pictures; known are {', '.join(sorted(SUFFIXES))}")
    return files


def _metadata(folder: Path) -> dict[str, str]:
    """File name to caption, as datasets' ImageFolder has it."""
    path = folder / METADATA
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            text = next(values[key] for key in ("text", "caption", "prompt") if values.get(key))
            found[str(values["file_name"])] = " ".join(str(text).split())
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
            raise DataError(f"{path}, line {number}: it needs file_name and text, as JSON") from None
    return found


def _from_name(stem: str) -> str:
    """Words of a file's name; a name that is a number, a hash or a camera's says nothing."""
    words = re.sub(r"[_\-.]+", " ", stem)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words).strip()
    words = re.sub(r"\s*\(?\d+\)?$", "", words)
    plain = words.replace(" ", "")
    if not re.search(r"[A-Za-zÀ-ɏ]{3}", plain) or re.fullmatch(r"(?i)(img|dsc|pxl|image|photo|[0-9a-f]{8,})\d*", plain):
        return ""
    return " ".join(words.lower().split())
