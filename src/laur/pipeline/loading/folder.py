"""A checkpoint as a diffusers folder: model_index.json, and one folder for each component."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from laur.core.errors import CheckpointError
from laur.pipeline.loading.source import COMPONENTS, Config, header_of, read_config, read_tensors
from laur.utils.safetensors_header import PICKLES, Header

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model_index.json"
_FILE = r"{stem}(?:\.(?P<variant>(?!.*-of-)[\w-]+))?\.safetensors"
_SHARDS = r"{stem}\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json"

_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
"""Files of which a tokenizer needs one set."""


class FolderSource:
    """Reads configs and headers; which file of each component is taken is settled here, once."""

    def __init__(self, path: Path, name: str, variant: str | None = None) -> None:
        """`variant` is the word before .safetensors, fp16 say. None takes plain files, fp16 where there are none."""
        self.path, self.name = path, name
        self.clue = ""
        self.index = _index(path)
        self.components = tuple(name for name in COMPONENTS if _class_in(self.index, name) is not None)
        # a folder that does not say what its network predicts does say it: diffusers takes epsilon then
        self.scheduler: Config = {"prediction_type": "epsilon"}
        self.scheduler |= read_config(path / "scheduler" / "scheduler_config.json")
        self._files = _choose({name: _candidates(path / name) for name in self.components}, variant, path)

    def class_name(self, component: str) -> str:
        """As model_index.json has it."""
        return _class_in(self.index, component) or "nothing"

    def config(self, component: str) -> Config:
        """The component's config.json."""
        return read_config(self.path / component / "config.json")

    def files(self) -> dict[str, tuple[Path, ...]]:
        """Weight files by component."""
        return dict(self._files)

    @cached_property
    def headers(self) -> dict[Path, Header]:
        """Of all weight files. Raises CheckpointError for a damaged one."""
        return {file: header_of(file) for files in self._files.values() for file in files}

    def weights_bytes(self) -> int:
        """Of all components, as stored."""
        return sum(header.nbytes for header in self.headers.values())

    def tensors(self, component: str) -> dict[str, Tensor]:
        """The component's weights as stored."""
        tensors: dict[str, Tensor] = {}
        for file in self._files[component]:
            tensors |= read_tensors(file)
        return tensors

    def tokenizer(self, component: str) -> tuple[str, Path, Config]:
        """The folder `tokenizer` or `tokenizer_2`; transformers reads its options from there."""
        name = component.replace("text_encoder", "tokenizer")
        folder = self.path / name
        if not any(all((folder / file).is_file() for file in files) for files in _VOCABULARIES):
            # transformers would make up a vocabulary of three words
            raise CheckpointError(f"{folder} holds no vocabulary; download the folder again")
        return _class_in(self.index, name) or "CLIPTokenizer", folder, {}


def is_complete(path: Path) -> bool:
    """Whether a folder has every config and weight file that its index asks for."""
    try:
        source = FolderSource(path, path.name)
        for name in source.components:
            source.config(name)
            if name.startswith("text_encoder"):
                source.tokenizer(name)
    except CheckpointError:
        return False
    return True


def _index(path: Path) -> Config:
    if (path / INDEX).is_file():
        return read_config(path / INDEX)
    if (path / "adapter_config.json").is_file() or (path / "pytorch_lora_weights.safetensors").is_file():
        raise CheckpointError(f"{path} is a LoRA adapter, not a model; give it with --adapter")
    singles = sorted(path.glob("*.safetensors"))
    if (path / "config.json").is_file():
        hint = "it looks like one component; give the folder above it"
    elif singles:
        hint = f"give the file that you mean, {singles[0].name} say"
    else:
        hint = "give a diffusers folder or a .safetensors file"
    raise CheckpointError(f"the folder {path} has no {INDEX}; {hint}")


def _class_in(index: Any, name: str) -> str | None:
    """The class of an entry `[library, class]`; [null, null] is none."""
    entry = index.get(name)
    if isinstance(entry, list) and len(cast("list[Any]", entry)) == 2 and isinstance(entry[1], str):
        return entry[1]
    return None


def _candidates(folder: Path) -> dict[str | None, tuple[Path, ...]]:
    """Weight files by variant, None being the plain ones."""
    stem = "model" if folder.name.startswith("text") else "diffusion_pytorch_model"
    found: dict[str | None, tuple[Path, ...]] = {}
    for path in sorted(folder.glob("*.safetensors*")):
        if one := re.fullmatch(_FILE.format(stem=stem), path.name):
            found[one["variant"]] = (path,)
        elif many := re.fullmatch(_SHARDS.format(stem=stem), path.name):
            found[many["variant"]] = _shards(path)
    return found


def _shards(index: Path) -> tuple[Path, ...]:
    names = read_config(index).get("weight_map")
    names = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent.name}/{name} is missing beside {index}; download the folder again")
    return tuple(index.parent / name for name in names)


def _choose(
    candidates: dict[str, dict[str | None, tuple[Path, ...]]], variant: str | None, path: Path
) -> dict[str, tuple[Path, ...]]:
    everything = {name for found in candidates.values() for name in found if name is not None}
    if variant is not None and variant not in everything:
        there = f"it has {', '.join(sorted(everything))}" if everything else "it has plain files only"
        raise CheckpointError(f"{path} holds no variant {variant!r}; {there}")
    return {name: _one_of(found, variant, path / name) for name, found in candidates.items()}


def _one_of(found: dict[str | None, tuple[Path, ...]], variant: str | None, folder: Path) -> tuple[Path, ...]:
    for choice in (variant, None, "fp16"):
        if choice in found:
            return found[choice]
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = " or ".join(sorted(str(name) for name in found))
        raise CheckpointError(f"{folder} has several variants and no plain file; name one: variant {names}")
    pickles = [file for file in folder.glob("*") if file.suffix in PICKLES]
    if pickles:
        raise _folder_of_pickles(folder.parent, f"{folder.name}/{pickles[0].name}")
    raise CheckpointError(f"{folder} holds no weights; download the folder again")


def _folder_of_pickles(path: Path, file: str) -> CheckpointError:
    new = path.with_name(path.name + "-safe").as_posix()
    command = (
        'python -c "from diffusers import DiffusionPipeline as P; '
        f'P.from_pretrained({path.as_posix()!r}).save_pretrained({new!r})"'
    )
    return CheckpointError(
        f"{path} holds pickles ({file}), which can run code when they are read; convert it: {command}"
    )
