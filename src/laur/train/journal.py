"""What happened at each update: JSON lines, and TensorBoard's files beside them.

A run that goes on from update N first drops what was written of updates from N on, so each update stands there once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from laur.core.errors import MissingDependencyError, OutputError

FILE = "journal.jsonl"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True, slots=True)
class Entry:
    """One update."""

    update: int
    loss: float
    parts: Mapping[str, float]
    """The loss's named parts."""
    lr: float
    gradient_norm: float
    """Before clipping."""
    pictures_per_second: float
    seconds: float
    """Of training so far, over all sessions of the run."""
    peak_memory_mib: float
    """Of the GPU where there is one, else of this process."""

    def to_json(self) -> str:
        """One line; numbers that are not finite never come here."""
        values = {key: _short(value) for key, value in asdict(self).items()}
        return json.dumps(values, ensure_ascii=False)


class Journal:
    """The journal of the run in `folder`, going on at `update`."""

    def __init__(self, folder: Path, update: int, *, tensorboard: bool) -> None:
        self._path, self._shown = folder / FILE, folder / TENSORBOARD
        self._events: Any = None
        with _told(self._path):
            truncate(self._path, update)
        if tensorboard:
            with _told(self._shown):
                self._events = _summary_writer(self._shown, update)
        with _told(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, entry: Entry) -> None:
        """One line, given to the system at once. OutputError on a full disk."""
        with _told(self._path):
            self._file.write(entry.to_json() + "\n")
            self._file.flush()
        if self._events is not None:
            scalars = {"loss": entry.loss, "lr": entry.lr, "gradient norm": entry.gradient_norm}
            scalars |= {f"loss/{name}": value for name, value in entry.parts.items()}
            scalars |= {"pictures a second": entry.pictures_per_second, "peak MiB": entry.peak_memory_mib}
            with _told(self._shown):
                for name, value in scalars.items():
                    self._events.add_scalar(name, value, entry.update)

    def picture(self, name: str, update: int, path: Path) -> None:
        """A sheet's file, shown in TensorBoard too."""
        if self._events is not None:
            import numpy as np
            from PIL import Image

            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            with _told(self._shown):
                self._events.add_image(name, pixels, update, dataformats="HWC")

    def sync(self) -> None:
        """To the disk: called before a state is saved, so that no state is ahead of its journal."""
        with _told(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._events is not None:
            with _told(self._shown):
                self._events.flush()

    def close(self) -> None:
        """Nothing more comes. What still waits to be written has been told of where it failed; it fails again here, and
        must not take the place of that."""
        with suppress(OSError):
            self._file.close()
        if self._events is not None:
            with suppress(OSError):
                self._events.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal, up to the first that is not whole."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(value, dict):
                return
            yield value


def truncate(path: Path, update: int) -> None:
    """Cut off what is written of updates from `update` on, and what a killed process left of a line."""
    if not path.exists():
        return
    keep = 0
    with path.open("r+b") as file:
        for line in file:
            try:
                whole = line.endswith(b"\n") and json.loads(line)["update"] < update
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                break
            keep += len(line)
        file.truncate(keep)


def _summary_writer(folder: Path, update: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError(
            'TensorBoard is not installed: pip install "lcm-laur[train]", or --set journal.tensorboard=false'
        ) from None
    return SummaryWriter(os.fspath(folder), purge_step=update or None)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    return {key: _short(part) for key, part in value.items()} if isinstance(value, dict) else value


@contextmanager
def _told(path: Path) -> Generator[None]:
    """What the system will not write becomes OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; make room and give the same command again to go on"
        ) from None
