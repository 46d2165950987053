"""Reading an adapter's .safetensors file, with one plain line for each way in which it can be none.

The header is read and checked by itself (`laur.utils.safetensors_header`), so that what a file holds is known before
its weights are read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import AdapterError
from laur.utils import safetensors_header
from laur.utils.safetensors_header import PICKLES, Header, TensorInfo, WeightsFileError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PICKLES", "Header", "TensorInfo", "Written", "file_sha256", "read_header", "read_tensors"]


@dataclass(frozen=True, slots=True)
class Written:
    """When files were written last, and how long they are: to know later whether they are as they were."""

    files: tuple[tuple[Path, tuple[int, int] | None], ...]
    """Each with its time in nanoseconds and its bytes; None where it is not there."""

    @classmethod
    def of(cls, *paths: Path) -> Written:
        """As they are now: ask before they are read."""
        return cls(tuple((path, _state(path)) for path in paths))

    @property
    def same(self) -> bool:
        """Whether all are where they were and have not been written since."""
        return all(_state(path) == state for path, state in self.files)

    @property
    def anew(self) -> bool:
        """Whether one has been written since; what is only gone has not."""
        return any((now := _state(path)) is not None and now != state for path, state in self.files)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def read_header(path: Path) -> Header:
    """Read and check the header. Raises AdapterError, one line, for whatever is wrong with the file."""
    if path.suffix.lower() in PICKLES:
        raise AdapterError(
            f"{path.name} is a pickle file, which can run code when it is read; convert it to .safetensors"
        )
    try:
        return safetensors_header.read_header(path)
    except WeightsFileError as error:
        raise AdapterError(f"{path.name} {error}") from None
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}") from None


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
