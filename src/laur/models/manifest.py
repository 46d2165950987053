"""`laur.json`: what a packed checkpoint is, and which files it expands to.

It lies in the pack, and byte for byte the same in the expanded folder, written last: an expanded folder whose
`laur.json` differs, or one of whose files has another size, is not whole, or comes from another pack.

    format        laur-pack/1
    name          mini
    licence       of the weights, in words
    native_size   pixels a side that it was trained at
    defaults      fields of laur.core.checkpoint.Defaults
    sha256        over the weights, the same that the loader works out for the expanded folder: of the lines
                  "COMPONENT SHA256-OF-ITS-FILE" in order of component, joined by newlines
    adapters      name -> file in the expanded folder
    files         file in the expanded folder -> its size, its sha256, the packed file that it comes from, and
                  exact: whether it equals, bit for bit, the weights that were packed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

FILE = "laur.json"
FORMAT = "laur-pack/1"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the expanded folder."""

    size: int
    sha256: str
    packed: str
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a `laur.json`, and its bytes."""

    raw: bytes
    name: str
    sha256: str
    adapters: Mapping[str, str]
    files: Mapping[str, FileEntry]

    @classmethod
    def parse(cls, raw: bytes) -> Manifest:
        """Raises ValueError if it is none."""
        try:
            fields: dict[str, Any] = json.loads(raw)
            if fields["format"] != FORMAT:
                raise ValueError(f"{FILE} has format {fields['format']!r}; this version reads {FORMAT}")
            files = {path: FileEntry(**entry) for path, entry in fields["files"].items()}
            return cls(raw, fields["name"], fields["sha256"], fields["adapters"], files)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{FILE} is damaged: {error!r}") from None

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """That of a pack or an expanded folder. Raises ValueError if there is none or it is damaged."""
        try:
            return cls.parse((folder / FILE).read_bytes())
        except OSError as error:
            raise ValueError(f"{FILE} cannot be read: {error.strerror}") from None

    @property
    def folder_name(self) -> str:
        """Another pack of the same name gets another folder, so that two versions of Laur do not fight over one."""
        return f"{self.name}-{hashlib.sha256(self.raw).hexdigest()[:12]}"

    @property
    def size(self) -> int:
        """Bytes of the expanded folder."""
        return len(self.raw) + sum(entry.size for entry in self.files.values())

    def describes(self, folder: Path) -> bool:
        """Whether `folder` holds this pack's files, whole. Sizes are compared, not contents: it takes microseconds."""
        try:
            if (folder / FILE).read_bytes() != self.raw:
                return False
            return all((folder / path).stat().st_size == entry.size for path, entry in self.files.items())
        except OSError:
            return False


def is_adapter(path: str) -> bool:
    """Whether a file of an expanded folder is an adapter, not a part of the checkpoint."""
    return PurePosixPath(path).parts[0] == "adapters"


def weights_sha256(files: Mapping[str, FileEntry]) -> str:
    """The `sha256` of a manifest with these files."""
    weights = [path for path in files if path.endswith(".safetensors") and not is_adapter(path)]
    lines = sorted(f"{PurePosixPath(path).parts[0]} {files[path].sha256}" for path in weights)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
