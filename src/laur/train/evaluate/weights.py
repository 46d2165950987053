"""Tensors out of a TorchScript archive, without running anything that it holds."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class _Module:
    """In place of every class that the archive defines: it keeps what its object held, and does nothing."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.held = state


class _Reader(pickle.Unpickler):
    """Knows tensors and `_Module`; any other name ends the reading."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name == "FloatStorage":
            return torch.float32
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch.jit._pickle", "build_intlist"):
            return list
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, *_ = pid
        if kind != "storage" or dtype is not torch.float32 or not str(key).isdecimal():
            raise pickle.UnpicklingError(f"it holds a {kind} of {dtype}")
        content = bytearray(self._archive.read(f"{self._root}/data/{key}"))
        return torch.frombuffer(content, dtype=torch.float32)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)


def read_archive(path: Path) -> dict[str, Tensor]:
    """All tensors by dotted name. Errors: pickle.UnpicklingError, ValueError where it is none; OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            (data,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
            found: dict[str, Tensor] = {}
            _collect(_Reader(archive, data.rpartition("/")[0]).load(), "", found)
            return found
    except (zipfile.BadZipFile, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"no TorchScript archive: {error}") from None


def _collect(module: object, prefix: str, found: dict[str, Tensor]) -> None:
    for name, value in getattr(module, "held", {}).items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", found)
