"""From the name, path or hub id that a user writes to the files of a checkpoint.

Looked up in this order: embedded names, the user's models folder, local paths, hub ids. Only a hub id ever reaches the
network, and only where it is not in the hub's local cache.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import laur.models
from laur.core.errors import CheckpointError, NotFoundError
from laur.core.places import home_folder
from laur.utils.safetensors_header import PICKLES

SUFFIX = ".safetensors"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_CONVERT_FILE = (
    'python -c "import torch, safetensors.torch as s; d = torch.load({old!r}, weights_only=True); '
    "s.save_file({{k: v.clone() for k, v in d.get('state_dict', d).items() if hasattr(v, 'dtype')}}, {new!r})\""
)
"""weights_only refuses everything that is not plain data."""


class Kind(StrEnum):
    """Where a checkpoint was found."""

    EMBEDDED = "embedded"
    FOLDER = "folder"
    FILE = "file"
    HUB = "hub"


@dataclass(frozen=True, slots=True)
class Located:
    """A checkpoint's files: a diffusers folder or one .safetensors file."""

    name: str
    """As the user wrote it."""
    kind: Kind
    path: Path


@dataclass(frozen=True, slots=True)
class Known:
    """A checkpoint that can be named."""

    name: str
    kind: Kind
    path: Path | None = None
    """None for an embedded one, which is expanded when it is first used."""


def user_folder() -> Path:
    """Where users put checkpoints to use them by name."""
    return home_folder() / "models"


def known() -> list[Known]:
    """Everything that `locate` takes by a bare name; nothing is opened for it."""
    embedded = {name: Known(name, Kind.EMBEDDED) for name in laur.models.names()}
    return list((embedded | _user_models() | embedded).values())


def locate(name: str) -> Located:
    """The checkpoint of that name.

    Raises:
        NotFoundError: nothing is called so; the message lists what is, the nearest first.
        CheckpointError: a pickle, or a hub id that cannot be fetched.
    """
    if name in laur.models.names():
        return Located(name, Kind.EMBEDDED, laur.models.checkpoint_folder(name))
    own = _user_models()
    entry = own.get(name) or own.get(name.removesuffix(SUFFIX))
    if entry is not None and entry.path is not None:
        return _at(name, entry.path)
    path = _existing(name)
    if path is not None:
        return _at(name, path)
    if _is_hub_id(name):
        from laur.pipeline.loading.hub import fetch

        return Located(name, Kind.HUB, fetch(name))
    raise _not_found(name)


def refuse_pickle(path: Path) -> None:
    """Raise CheckpointError for a file whose suffix says that it is a pickle."""
    if path.suffix.lower() in PICKLES:
        raise pickle_error(path)


def pickle_error(path: Path) -> CheckpointError:
    """Why a pickle is refused, and the command that makes a .safetensors file of it."""
    command = _CONVERT_FILE.format(old=path.as_posix(), new=path.with_suffix(SUFFIX).as_posix())
    return CheckpointError(f"{path.name} is a pickle file, which can run code when it is read; convert it: {command}")


def _at(name: str, path: Path) -> Located:
    if path.is_dir():
        return Located(name, Kind.FOLDER, path)
    refuse_pickle(path)
    if path.suffix.lower() == ".gguf":
        raise CheckpointError(f"{path.name} is a GGUF file, which Laur does not read; give the model as {SUFFIX}")
    if not path.is_file():
        raise CheckpointError(f"{path} is neither a folder nor a file; give a diffusers folder or a {SUFFIX} file")
    return Located(name, Kind.FILE, path)


def _existing(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if name.strip() and path.exists() else None
    except PermissionError:
        raise CheckpointError(f"{name} cannot be read: permission denied") from None
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown ~user, a zero byte: no path at all
        return None


def _is_hub_id(name: str) -> bool:
    """owner/name; where the owner is a folder here, a path was meant."""
    if not _HUB_ID.fullmatch(name) or name.startswith((".", "~")):
        return False
    return Path(name).suffix.lower() not in {SUFFIX, *PICKLES} and not Path(name).parent.exists()


def _not_found(name: str) -> NotFoundError:
    if len(Path(name).parts) > 1 or Path(name).suffix.lower() in {SUFFIX, *PICKLES}:
        return NotFoundError(f"there is no model at {_short(name)}; check the path")
    names = [entry.name for entry in known()]
    near = difflib.get_close_matches(name, names, 1, 0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return NotFoundError(
        f"no model is called {_short(name)!r}; {hint}known are {', '.join(names)}; or give a diffusers folder, "
        f"a {SUFFIX} file or a hub id (owner/name)"
    )


def _short(name: str) -> str:
    return name if len(name) <= 200 else name[:197] + "..."


def _user_models() -> dict[str, Known]:
    """By name: diffusers folders and files in the models folder, and in its folders."""
    found: dict[str, Known] = {}
    top = _entries(user_folder())
    below = [path for folder in top if _is_plain(folder) for path in _entries(folder)]
    for path in [*top, *below]:
        if path.suffix.lower() == SUFFIX and path.is_file():
            found.setdefault(path.stem, Known(path.stem, Kind.FILE, path))
        elif (path / "model_index.json").is_file():
            found.setdefault(path.name, Known(path.name, Kind.FOLDER, path))
    return found


def _is_plain(folder: Path) -> bool:
    return folder.is_dir() and not (folder / "model_index.json").is_file()


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
