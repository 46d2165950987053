"""From a standard folder of `mini`'s format to the compact pack that ships in the wheel.

Which weights are rounded, and how finely, is decided by what the pictures showed (benchmarks/pack_quality.py):

- the network that draws: 127 levels (8 bits) per output channel. It is meant to have been stored so before its adapters
  were distilled; then nothing changes (`exact` in the manifest says so);
- adapters: 90 levels (7.5 bits) per row; the autoencoder: 255 levels (9 bits) per output channel;
- the text encoder: exactly. Its layers pass errors on enlarged, and where a picture hangs in the balance the least
  change makes it another one: even 13 bits in the word embeddings alone took one of twelve pictures to 29 dB.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from laur.core.checkpoint import Defaults
from laur.models.codec import EXACT, encode
from laur.models.expand import DEFLATED, HEADER, TABLE, TOPS, write_expanded
from laur.models.manifest import FILE, FORMAT, FileEntry, is_adapter, weights_sha256
from laur.utils.files import atomic_folder
from laur.utils.safetensors_header import read_header

LEVELS: Mapping[str, int] = MappingProxyType({"unet": 127, "vae": 255, "adapters": 90})
"""Either side of zero, for the matrices of a part."""
SMALL = 2_048
"""Values below which a tensor is stored as it is."""
LONG = 65_536
"""Bytes from which a file that is no weights (the tokenizer) is deflated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a folder does not say of itself."""

    name: str
    licence: str
    native_size: int
    defaults: Defaults = field(default_factory=Defaults)
    levels: Mapping[str, int] = field(default_factory=lambda: LEVELS)
    """By part; what is not named is kept exactly."""


def pack(folder: Path, target: Path, settings: Settings) -> dict[str, FileEntry]:
    """Write the pack of `folder` to the folder `target`, replacing it; returns the manifest's files.

    Raises ValueError if `folder` is no checkpoint in half precision with one weight file per part, and OSError.
    """
    sources = _files(folder, settings.name)
    adapters = {Path(path).stem: path for path in sources if is_adapter(path)}
    files: dict[str, FileEntry] = {}
    with atomic_folder(target, replace=True) as temporary:
        for path, source in sources.items():
            packed = _packed_name(path, source)
            (temporary / packed).parent.mkdir(parents=True, exist_ok=True)
            files[path] = _pack_file(source, temporary / packed, path, packed, settings)
        text = json.dumps(_manifest(settings, adapters, files), indent=2, ensure_ascii=False) + "\n"
        (temporary / FILE).write_bytes(text.encode())
    return files


def _manifest(settings: Settings, adapters: Mapping[str, str], files: Mapping[str, FileEntry]) -> dict[str, Any]:
    defaults = {name: getattr(settings.defaults, name) for name in Defaults.__dataclass_fields__}
    entries = {
        path: {"size": e.size, "sha256": e.sha256, "packed": e.packed, "exact": e.exact} for path, e in files.items()
    }
    return {
        "format": FORMAT,
        "name": settings.name,
        "licence": settings.licence,
        "native_size": settings.native_size,
        "defaults": defaults | {"adapters": list(adapters)},
        "sha256": weights_sha256(files),
        "adapters": adapters,
        "files": entries,
    }


def _files(folder: Path, name: str) -> dict[str, Path]:
    """File in the expanded folder -> file of `folder`: the parts that the index names, and the adapters."""
    try:
        index: dict[str, Any] = json.loads((folder / "model_index.json").read_bytes())
    except OSError:
        raise ValueError(f"{folder} is no checkpoint: it has no model_index.json") from None
    parts = [part for part, kind in index.items() if isinstance(kind, list) and kind[0] is not None]
    found = {"model_index.json": folder / "model_index.json"}
    for part in sorted(parts):
        inside = sorted(path for path in (folder / part).iterdir() if path.is_file())
        if len(_weights(inside)) > 1:
            raise ValueError(f"{folder / part} has more than one .safetensors file; leave the one in half precision")
        found |= {path.relative_to(folder).as_posix(): path for path in inside}
    for path in _weights(sorted((folder / "adapters").glob("*"))):
        found[f"adapters/{path.stem.replace('_', '-')}-{name}.safetensors"] = path
    return found


def _weights(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix == ".safetensors"]


def _packed_name(path: str, source: Path) -> str:
    """Weights lie side by side, so that nobody takes the pack for a folder to load; the rest lies where it was."""
    if not path.endswith(".safetensors"):
        return path + DEFLATED if source.stat().st_size > LONG else path
    part, file = path.split("/")
    return file if is_adapter(path) else f"{part}.safetensors"


def _pack_file(source: Path, target: Path, path: str, packed: str, settings: Settings) -> FileEntry:
    if source.suffix != ".safetensors":
        data = source.read_bytes()
        target.write_bytes(zlib.compress(data, 9) if packed.endswith(DEFLATED) else data)
        return FileEntry(len(data), hashlib.sha256(data).hexdigest(), packed)
    weights = load_file(source)
    header = dict(read_header(source).metadata) or {"format": "pt"}
    _save(weights, header, target, settings.levels.get(path.partition("/")[0], EXACT))
    expanded = target.with_name(target.name + ".expanded")
    try:
        with expanded.open("xb") as file, ThreadPoolExecutor(2) as pool:
            digest = write_expanded(target, file, pool)
        return FileEntry(expanded.stat().st_size, digest, packed, exact=_equal(weights, load_file(expanded)))
    finally:
        expanded.unlink(missing_ok=True)


def _save(
    weights: Mapping[str, NDArray[Any]],
    header: Mapping[str, str],
    target: Path,
    levels: int,
) -> None:
    tensors: dict[str, NDArray[Any]] = {}
    table: dict[str, Any] = {}
    for name, values in weights.items():
        if values.dtype.kind == "f" and values.itemsize > 2:
            raise ValueError(f"{name} is stored in {values.dtype}; save the model in half precision (float16) first")
        if values.dtype != np.float16 or values.size < SMALL:
            tensors[name] = values
            continue
        layout, data, tops = encode(values, levels if values.ndim > 1 else EXACT)
        tensors[name] = np.frombuffer(data, np.uint8)
        table[name] = [layout.levels, list(layout.shape), list(layout.planes)]
        if tops is not None:
            tensors[name + TOPS] = tops
    save_file(tensors, target, {TABLE: json.dumps(table, separators=(",", ":")), HEADER: json.dumps(dict(header))})


def _equal(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]]) -> bool:
    return left.keys() == right.keys() and all(left[n].tobytes() == right[n].tobytes() for n in left)
