"""From the name or file that a user writes to an adapter.

Looked up in this order: registered and installed adapters, the embedded ones, the user's folder, then files. Nothing
is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import AdapterError, NotFoundError
from laur.core.places import home_folder
from laur.models import adapter_names
from laur.optimize import ADAPTERS
from laur.optimize.registry import hint
from laur.optimize.safetensors_file import PICKLES

if TYPE_CHECKING:
    from laur.optimize.base import BaseAdapter

SUFFIX = ".safetensors"
_IN_FOLDERS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and PEFT call the file when they save an adapter as a folder."""


@dataclass(frozen=True, slots=True)
class Known:
    """An adapter that can be named."""

    name: str
    origin: str
    """registered, embedded or user."""
    path: Path | None = None
    """Of a user's file."""


def user_folder() -> Path:
    """Where users put adapters to use them by name: $LAUR_HOME/adapters, or the same in the user's data folder."""
    return home_folder() / "adapters"


def known() -> list[Known]:
    """Everything that `find` takes by name; nothing is read or imported for it."""
    found = [Known(name, "registered") for name in ADAPTERS.names()]
    found += [Known(name, "embedded") for name in adapter_names()]
    found += [Known(name, "user", path) for name, path in _user_files().items()]
    unique: dict[str, Known] = {}
    for entry in found:
        unique.setdefault(entry.name, entry)
    return list(unique.values())


def folder_names(folder: Path) -> dict[str, Path]:
    """The files of the user's folder by name; nothing is opened."""
    try:
        return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix == SUFFIX}
    except OSError:
        return {}


def find(name_or_file: str) -> BaseAdapter:
    """The adapter of that name, or in that file. Raises NotFoundError with the nearest name, or AdapterError."""
    if name_or_file in ADAPTERS:
        return ADAPTERS.get(name_or_file)
    from laur.optimize.lora_file import LoraFile

    path, name = file_of(name_or_file), _plain_name(name_or_file)
    try:
        return LoraFile(path, name)
    except AdapterError:
        from laur.optimize.learned import LearnedWord, is_learned_word

        if not is_learned_word(path):
            raise
        return LearnedWord(path, name)


def file_of(name_or_file: str) -> Path:
    """The file behind a name or path, for `laur adapters path`. Errors as `find`."""
    if name_or_file in adapter_names():
        from laur.models import adapter_file

        return adapter_file(name_or_file)
    if (own := _user_files().get(name_or_file)) is not None:
        return own
    if name_or_file in ADAPTERS:
        raise NotFoundError(f"adapter {name_or_file!r} is code, not a file; it has no path")
    path = _path(name_or_file)
    if path.is_dir() and (len(path.parts) > 1 or _first_in(path)):
        return _in_folder(path)
    if path.is_file():
        return path
    if path.suffix.lower() in {SUFFIX, *PICKLES} or len(path.parts) > 1:
        raise NotFoundError(f"there is no adapter file {name_or_file}; check the path")
    names = [entry.name for entry in known()]
    raise NotFoundError(
        f"no adapter is called {name_or_file!r}{hint(name_or_file, names)}; or give a {SUFFIX} file, "
        "or a style's name (laur styles)"
    )


def _path(name_or_file: str) -> Path:
    """Raises NotFoundError for what can be no path at all: too long a name, an unknown ~user."""
    try:
        path = Path(name_or_file).expanduser()
        path.is_dir()
    except PermissionError:
        raise AdapterError(f"{name_or_file} cannot be read: permission denied") from None
    except (OSError, RuntimeError):
        short = name_or_file if len(name_or_file) <= 200 else name_or_file[:197] + "..."
        raise NotFoundError(f"there is no adapter file {short}; check the path") from None
    return path


def _plain_name(name_or_file: str) -> str:
    return name_or_file if name_or_file in adapter_names() else Path(name_or_file).name.removesuffix(SUFFIX)


def _user_files() -> dict[str, Path]:
    """By name: files, and folders that hold one adapter."""
    folder = user_folder()
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return {}
    files = {path.stem: path for path in entries if path.suffix == SUFFIX and path.is_file()}
    folders = {path.name: file for path in entries if path.is_dir() and (file := _first_in(path))}
    return {**folders, **files}


def _first_in(folder: Path) -> Path | None:
    return next((folder / name for name in _IN_FOLDERS if (folder / name).is_file()), None)


def _in_folder(folder: Path) -> Path:
    found = _first_in(folder)
    if found is None:
        raise AdapterError(f"the folder {folder} holds neither {' nor '.join(_IN_FOLDERS)}; give the adapter's file")
    return found
