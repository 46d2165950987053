"""sha256 of checkpoints, remembered on disk: reading gigabytes to name them is only done once.

A single file's is the plain sha256 of the file, so that its first ten digits are the AutoV2 hash of A1111 and Civitai.
A folder's is that of a list of its components' hashes, whatever the files are called (fp16 or not, in shards or not).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import CheckpointError
from laur.pipeline.loading.remember import Remembered
from laur.pipeline.loading.source import TEXT_ENCODERS

if TYPE_CHECKING:
    from laur.pipeline.loading.source import Source

_NOTES = {"dtype", "torch_dtype", "transformers_version"}
"""Entries of configs that say how they were written, not what they mean."""


def weights_sha256(files: Mapping[str, Iterable[Path]]) -> str:
    """Over weight files by component; a single file stands under the empty name. Raises CheckpointError."""
    known = Remembered("hashes.json")
    if set(files) == {""}:
        (path,) = files[""]
        digest = _of_file(path, known)
    else:
        lines = [f"{component} {_of_file(path, known)}" for component in sorted(files) for path in files[component]]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    known.save()
    return digest


def identity(source: Source, weights: str) -> str:
    """sha256 over everything that draws: weights (their hash), the networks' configs, the tokenizers' files.

    Two folders may share weights and differ in a latent scale or a vocabulary; their pictures differ then too.
    Raises CheckpointError.
    """
    parts: dict[str, object] = {"weights": weights}
    for component in source.components:
        config = source.config(component)
        parts[component] = {name: config[name] for name in config if name[0] != "_" and name not in _NOTES}
        if component in TEXT_ENCODERS:
            kind, folder, options = source.tokenizer(component)
            files = {file.name: _sha256(file) for file in sorted(folder.glob("*")) if file.is_file()}
            parts[f"{component}/tokenizer"] = [kind, files, options]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _of_file(path: Path, known: Remembered) -> str:
    """Remembered while the file's size and time of change are the same."""
    key = str(path.resolve())
    try:
        before = file_state(path)
        match known.get(key):
            case [size, time, str(digest)] if (size, time) == before and len(digest) == 64:
                return digest
            case _:
                digest = _sha256(path)
        after = file_state(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if after != before:
        raise CheckpointError(f"{path.name} is being written to; wait until it is complete")
    known.put(key, [*before, digest])
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change: what must stay the same for a hash to stay true. Raises OSError."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
