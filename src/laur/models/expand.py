"""From a pack to the standard folder, every byte checked against the manifest."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from laur.models.codec import Layout, decode
from laur.models.manifest import FILE, Manifest

TABLE = "laur_pack"
"""Key in the header of a packed file: JSON of {tensor: [levels, shape, planes]}."""
HEADER = "header"
"""Key in the header of a packed file: JSON of the metadata that the expanded file gets."""
TOPS = ".tops"
"""What is appended to a tensor's name to name the largest magnitudes of its rows."""
DEFLATED = ".z"
"""Suffix of packed files that are no weights, where deflating them pays."""

_DTYPES = {"float16": "F16", "float32": "F32", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}
_WORKERS = min(4, os.cpu_count() or 1)


def expand(pack: Path, folder: Path) -> None:
    """Fill the empty `folder` with what `pack` holds.

    Raises ValueError if the pack is damaged (a file is missing, or does not give what the manifest says), and OSError
    if `folder` cannot be written.
    """
    manifest = Manifest.read(pack)
    with ThreadPoolExecutor(_WORKERS) as pool:
        for path, entry in manifest.files.items():
            source, target = pack / entry.packed, folder / path
            if not source.is_file():
                raise ValueError(f"{entry.packed} is missing")
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".safetensors":
                with target.open("xb") as file:
                    digest = write_expanded(source, file, pool)
            else:
                data = _plain(source)
                target.write_bytes(data)
                digest = hashlib.sha256(data).hexdigest()
            if digest != entry.sha256:
                raise ValueError(f"{entry.packed} is damaged")
    (folder / FILE).write_bytes(manifest.raw)


def _plain(packed: Path) -> bytes:
    data = packed.read_bytes()
    if packed.suffix != DEFLATED:
        return data
    try:
        return zlib.decompress(data)
    except zlib.error:
        raise ValueError(f"{packed.name} is damaged") from None


def write_expanded(packed: Path, target: BinaryIO, pool: ThreadPoolExecutor) -> str:
    """Write the .safetensors file that `packed` stands for, tensors in order of name; returns its sha256."""
    digest = hashlib.sha256()
    try:
        for block in _expanded(packed, pool):
            digest.update(block)
            target.write(block)
    except SafetensorError as error:
        raise ValueError(f"{packed.name} is damaged: {error}") from None
    return digest.hexdigest()


def _expanded(packed: Path, pool: ThreadPoolExecutor) -> Iterator[memoryview | bytes]:
    """The header, then the bytes of each tensor; several are unpacked at a time (zlib and NumPy let threads run)."""
    with safe_open(packed, framework="numpy") as file:
        metadata: dict[str, str] = file.metadata() or {}
        table: dict[str, Any] = json.loads(metadata.get(TABLE, "{}"))
        stored = set(file.keys())
        names = sorted(stored - {name + TOPS for name in table})

        def restore(name: str) -> Callable[[], NDArray[Any]]:
            array = file.get_tensor(name)
            if name not in table:
                return lambda: array
            levels, shape, planes = table[name]
            tops = file.get_tensor(name + TOPS) if name + TOPS in stored else None
            return lambda: decode(Layout(levels, tuple(shape), tuple(planes)), array.tobytes(), tops)

        plain = {name: file.get_tensor(name) for name in names if name not in table}
        kinds = {n: _Kind("F16", table[n][1], 2) if n in table else _Kind.of(plain[n]) for n in names}
        yield _header(kinds, json.loads(metadata.get(HEADER, "{}")))
        for array in pool.map(lambda task: task(), [restore(name) for name in names]):
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class _Kind(NamedTuple):
    """What the header says of a tensor."""

    dtype: str
    shape: list[int]
    width: int

    @classmethod
    def of(cls, array: NDArray[Any]) -> _Kind:
        return cls(_DTYPES[array.dtype.name], list(array.shape), array.itemsize)


def _header(kinds: Mapping[str, _Kind], metadata: Mapping[str, str]) -> bytes:
    """As https://github.com/huggingface/safetensors#format has it; written here so that its bytes never change."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name, kind in kinds.items():
        end = start + kind.width * math.prod(kind.shape)
        entries[name] = {"dtype": kind.dtype, "shape": kind.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
