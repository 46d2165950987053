"""The embedded checkpoint and its adapters: shipped compact, expanded once into the user's cache.

    checkpoint_folder("mini")       a standard folder in half precision, as diffusers loads it
    adapter_file("lcm-lora-mini")   its LCM-LoRA

What is a user's to cure (full disk, read-only cache) raises OutputError.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import CheckpointError, NotFoundError, OutputError
from laur.core.places import cache_folder

if TYPE_CHECKING:
    from laur.models.manifest import Manifest

_PACKS = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Checkpoints in this package."""
    return tuple(sorted(file.parent.name for file in _PACKS.glob("*/laur.json")))


def adapter_names() -> tuple[str, ...]:
    """Adapters in this package."""
    return tuple(adapter for name in names() for adapter in sorted(_manifest(name).adapters))


def checkpoint_folder(name: str = "mini") -> Path:
    """The expanded folder, made first if it is not there whole.

    Raises:
        NotFoundError: no embedded checkpoint has that name.
        OutputError: the cache cannot be written; nothing half-written is left.
        CheckpointError: the installed package is damaged.
    """
    if name not in names():
        raise NotFoundError(f"no embedded checkpoint is called {name!r}; there is: {', '.join(names()) or 'none'}")
    manifest = _manifest(name)
    folder = cache_folder().absolute() / "models" / manifest.folder_name
    if not manifest.describes(folder):
        _expand(manifest, folder)
    return folder


def adapter_file(name: str) -> Path:
    """The expanded file of an embedded adapter. Raises as `checkpoint_folder` does."""
    for checkpoint in names():
        if (file := _manifest(checkpoint).adapters.get(name)) is not None:
            return checkpoint_folder(checkpoint) / file
    raise NotFoundError(f"no embedded adapter is called {name!r}; there is: {', '.join(adapter_names()) or 'none'}")


def _manifest(name: str) -> Manifest:
    from laur.models.manifest import Manifest

    try:
        return Manifest.read(_PACKS / name)
    except ValueError as error:
        raise _damaged(name, error) from None


def _damaged(name: str, error: ValueError) -> CheckpointError:
    return CheckpointError(f"the embedded checkpoint {name} is damaged ({error}); install lcm-laur again")


def _expand(manifest: Manifest, folder: Path) -> None:
    """One process expands; the others wait for it. What a killed one left behind is removed."""
    from laur.models.expand import expand
    from laur.utils.files import atomic_folder, locked, remove_leftovers

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{folder.name}.lock")) as held:
            if manifest.describes(folder):
                return
            if held:
                remove_leftovers(folder)
            with atomic_folder(folder, replace=True) as temporary:
                expand(_PACKS / manifest.name, temporary)
    except ValueError as error:
        raise _damaged(manifest.name, error) from None
    except OSError as error:
        raise OutputError(
            f"the checkpoint {manifest.name} ({manifest.size / 1e6:.0f} MB) cannot be unpacked to {folder.parent}: "
            f"{error.strerror or error}; free some space, or set LAUR_CACHE to a folder that can be written"
        ) from None
