"""What a checkpoint's files offer to the rest of loading, whether they are a diffusers folder or one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from laur.core.errors import CheckpointError
from laur.pipeline.loading.names import Kind, Located, pickle_error
from laur.utils.safetensors_header import Header, WeightsFileError, read_header

if TYPE_CHECKING:
    from torch import Tensor

Config = dict[str, Any]
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
COMPONENTS = ("unet", "vae", *TEXT_ENCODERS)
"""What holds weights."""


class Source(Protocol):
    """Configs as diffusers writes them, and weights by diffusers' and transformers' names. Loads nothing by itself."""

    path: Path
    name: str
    """For messages: the file's or folder's, or the hub id."""
    index: Config
    """model_index.json."""
    scheduler: Config
    """scheduler_config.json; without a `prediction_type` where the files cannot tell."""
    clue: str
    """Why they cannot tell, for the message that asks; empty otherwise."""
    components: tuple[str, ...]
    """Of COMPONENTS those that are there."""

    def class_name(self, component: str) -> str:
        """The diffusers or transformers class."""
        ...

    def config(self, component: str) -> Config:
        """The class's config."""
        ...

    def files(self) -> dict[str, tuple[Path, ...]]:
        """Weight files by component; a single file is under the empty name."""
        ...

    def weights_bytes(self) -> int:
        """Of all components, as stored."""
        ...

    def tensors(self, component: str) -> dict[str, Tensor]:
        """The weights as stored, mapped from the file where no conversion is needed."""
        ...

    def tokenizer(self, component: str) -> tuple[str, Path, Config]:
        """Class, folder and options of the tokenizer that belongs to a text encoder."""
        ...


def open_source(located: Located, *, variant: str | None = None) -> Source:
    """The files of a checkpoint, checked as far as headers tell. Raises CheckpointError."""
    name = located.name if located.kind is Kind.HUB else located.path.name
    if located.path.is_dir():
        from laur.pipeline.loading.folder import FolderSource

        return FolderSource(located.path, name, variant)
    from laur.pipeline.loading.single_file import FileSource

    return FileSource(located.path, name)


def weights_bytes(located: Located, *, variant: str | None = None) -> int:
    """Bytes of all weights as stored, from the headers alone. Raises CheckpointError."""
    return open_source(located, variant=variant).weights_bytes()


def header_of(path: Path) -> Header:
    """A file's header; what is wrong with it as one CheckpointError."""
    try:
        return read_header(path)
    except WeightsFileError as fault:
        if "is a pickle" in str(fault):
            raise pickle_error(path) from None
        raise CheckpointError(f"{_short(path)} {fault}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


def read_config(path: Path) -> Config:
    """A JSON object from a file of the checkpoint. Raises CheckpointError."""
    try:
        values: object = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{_short(path)} is missing in {path.parent.parent}; download the folder again") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is not JSON; download it again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object; download it again")
    return cast("Config", values)


def read_tensors(path: Path, names: list[str] | None = None) -> dict[str, Tensor]:
    """The named tensors of a file, or all; mapped, not copied, until they are converted or written to."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{_short(path)} cannot be read: {reason}; download it again") from None


def _short(path: Path) -> str:
    """With its folder where that is a component's."""
    named = {*COMPONENTS, "scheduler", "tokenizer", "tokenizer_2"}
    return f"{path.parent.name}/{path.name}" if path.parent.name in named else path.name
