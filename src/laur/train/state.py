"""The whole state of a run on disk: all of it or nothing, and never the only one at risk.

    RUN/states/00000500/state.json              what update, what files with their sizes and hashes, small values
                        parameters.safetensors  what is trained
                        optimiser.safetensors   its averages
                        average.safetensors     the average of the weights
                        objective.safetensors   targets

A state is written under a temporary name, synced, and renamed; the ones before stay until it stands.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laur.core.errors import OutputError, TrainingError
from laur.train import trees
from laur.utils.files import atomic_folder

FOLDER = "states"
INDEX = "state.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class RunState:
    """A run between two updates."""

    update: int
    """How many updates have been made; the number of the next one."""
    seconds: float
    """Of training, so far."""
    parts: Mapping[str, Any]
    """parameters, optimiser, average, objective: trees of tensors and plain values."""
    identity: Mapping[str, str]
    """Hashes of what the run stands on: its checkpoint, its set, the files that its objective names."""


def save(folder: Path, state: RunState, *, keep: int) -> Path:
    """Write `state` below the run's `folder` and let all but the newest `keep` go. OutputError where it cannot be."""
    place = folder / FOLDER / f"{state.update:08d}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(place, replace=True) as temporary:
            _write(temporary, state)
    except Exception as error:
        reason = refused(error)
        if reason is None:
            raise
        left = _numbered(folder)
        kept = f"that of update {int(left[-1].name)} is kept" if left else "there is none before it"
        raise OutputError(
            f"the state after update {state.update} cannot be written to {place.parent}: {reason}; {kept}: "
            "make room and give the same command again to go on"
        ) from None
    standing = _numbered(folder)
    while standing[-1] != place:  # of updates that are done again: damaged, or they would have been gone on from
        shutil.rmtree(standing.pop(), ignore_errors=True)
    for old in standing[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def newest(folder: Path, warn: Callable[[str], object]) -> RunState | None:
    """The newest whole state of the run in `folder`; each that is damaged is passed over with a warning."""
    places = _numbered(folder)
    for place in reversed(places):
        try:
            return load(place)
        except TrainingError as fault:
            warn(f"{fault}; passed over")
    if places:
        raise TrainingError(f"no state in {folder / FOLDER} is whole; --fresh begins the run anew")
    return None


def load(place: Path) -> RunState:
    """One state. Raises TrainingError where a file of it is missing, short or altered."""
    from safetensors.torch import load_file

    try:
        index = json.loads((place / INDEX).read_text("utf-8"))
        if index["version"] != VERSION:
            raise TrainingError(f"{place} has version {index['version']} of the state's layout, not {VERSION}")
        for name, known in index["files"].items():
            if _described(place / name) != known:
                raise TrainingError(f"{place / name} is not as it was written")
        parts = {
            name: trees.unpack(load_file(place / f"{name}.safetensors"), rest) for name, rest in index["parts"].items()
        }
        return RunState(index["update"], index["seconds"], parts, index["identity"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{place} is damaged ({type(error).__name__})") from None


def exists(folder: Path) -> bool:
    """Whether the run in `folder` has saved anything."""
    return bool(_numbered(folder))


def clean(folder: Path) -> None:
    """Remove what killed processes left half-written; nobody else may be writing to the run."""
    for leftover in (folder / FOLDER).glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _write(folder: Path, state: RunState) -> None:
    from safetensors.torch import save_file

    parts: dict[str, Any] = {}
    files: dict[str, Any] = {}
    for name, tree in state.parts.items():
        tensors, parts[name] = trees.pack(tree)
        file = folder / f"{name}.safetensors"
        save_file(tensors, file, {"format": "pt"})
        files[file.name] = _described(file)
    index = {
        "version": VERSION,
        "update": state.update,
        "seconds": state.seconds,
        "identity": dict(state.identity),
        "files": files,
        "parts": parts,
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _described(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _numbered(folder: Path) -> list[Path]:
    """Finished states, oldest first."""
    found = (folder / FOLDER).glob("[0-9]*")
    return sorted((place for place in found if place.name.isdecimal() and place.is_dir()), key=lambda p: int(p.name))


def refused(error: Exception) -> str | None:
    """What the system says where it will not write, also through safetensors; None where the fault is ours."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return str(error.args[0][0][2])  # (from, to, why) of each file
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if type(error).__name__ != "SafetensorError":
        return None
    text = " ".join(str(error).split())
    said = re.search(r"I/O error: (.+) \(os error", text)
    return said[1] if said else text
