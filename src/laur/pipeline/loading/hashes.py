"""sha256 of checkpoints, remembered on disk: reading gigabytes to name them is only done once.

A single file's is the plain sha256 of the file, so that its first ten digits are the AutoV2 hash of A1111 and Civitai.
A folder's is that of a list of its components' hashes, whatever the files are called (fp16 or not, in shards or not).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from laur.core.errors import CheckpointError
from laur.core.places import cache_folder
from laur.utils.files import atomic_write

REMEMBERED = 2_000
"""Files; the oldest are forgotten first."""


def weights_sha256(files: Mapping[str, Iterable[Path]]) -> str:
    """Over weight files by component; a single file stands under the empty name. Raises CheckpointError."""
    memory = _Memory(cache_folder() / "hashes.json")
    if set(files) == {""}:
        (path,) = files[""]
        digest = memory.sha256(path)
    else:
        lines = [f"{component} {memory.sha256(path)}" for component in sorted(files) for path in files[component]]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    memory.save()
    return digest


class _Memory:
    """Hashes by path, valid while the file's size and time of change are the same."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, list[object]] = {}
        self._changed = False
        with suppress(OSError, ValueError):  # a damaged or missing memory is an empty one
            known = json.loads(store.read_text("utf-8"))
            self._known = known if isinstance(known, dict) else {}

    def sha256(self, path: Path) -> str:
        """Remembered or computed."""
        key = str(path.resolve())
        try:
            before = _state(path)
            match self._known.get(key):
                case [size, time, str(digest)] if (size, time) == before and len(digest) == 64:
                    return digest
                case _:
                    digest = _sha256(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
        if _state(path) != before:
            raise CheckpointError(f"{path.name} is being written to; wait until it is complete")
        self._known.pop(key, None)
        self._known[key] = [*before, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        """Write what is new; where the cache cannot be written, hashes are computed again next time."""
        if not self._changed:
            return
        newest = dict(list(self._known.items())[-REMEMBERED:])
        with suppress(OSError):
            self._store.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._store, json.dumps(newest, indent=0).encode())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
