"""How a set lies on the disk: Arrow IPC files, read by mapping them, so that memory does not grow with the set.

set.json                what it is, from where, what was left out and why
part-00000.arrow …      a shard for every few hundred records of the source, written whole or not at all
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INDEX = "set.json"
FORMAT = 1
ROWS = 64
"""Rows of a record batch."""
_SKIPPED = b"laur.skipped"


def arrow() -> Any:
    """pyarrow, or one line on how to get it."""
    try:
        import pyarrow as pa
        import pyarrow.ipc  # pyright: ignore[reportUnusedImport] - as pa.ipc
    except ImportError:
        raise MissingDependencyError(
            "prepared sets need pyarrow; install it with: pip install 'lcm-laur[train]'"
        ) from None
    return pa


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture in a set."""

    name: str
    captions: tuple[str, ...]
    style: str
    licence: str
    origin: str
    bucket: int
    original: tuple[int, int]
    """(height, width) before it was brought to its bucket's size."""
    crop: tuple[int, int]
    """(top, left) of what was kept, in pixels of the bucket's scale."""
    latent: NDArray[np.float16]
    """(C, h, w)."""
    pixels: NDArray[np.uint8] | None
    """(H, W, 3), where the set keeps them."""
    states: tuple[NDArray[np.float16], ...]
    """(L, D) for each caption, where the set keeps them."""
    pooled: tuple[NDArray[np.float16], ...]
    """(P,) for each caption, for families that take it."""


def schema() -> Any:
    """Columns of a shard."""
    pa = arrow()
    pair = pa.list_(pa.int32(), 2)
    return pa.schema(
        [
            ("name", pa.string()),
            ("captions", pa.list_(pa.string())),
            ("style", pa.string()),
            ("licence", pa.string()),
            ("origin", pa.string()),
            ("bucket", pa.int32()),
            ("original", pair),
            ("crop", pair),
            ("latent", pa.binary()),
            ("pixels", pa.binary()),
            ("states", pa.list_(pa.binary())),
            ("pooled", pa.list_(pa.binary())),
        ]
    )


def part_name(number: int) -> str:
    """Of a shard."""
    return f"part-{number:05d}.arrow"


def write(path: Path, samples: Sequence[Sample], skipped: Mapping[str, str]) -> None:
    """A whole shard or none. `skipped`: name to reason. Errors: OSError."""
    pa = arrow()
    from laur.utils.files import atomic_write

    columns = schema().with_metadata({_SKIPPED: json.dumps(dict(skipped)).encode()})
    rows = [_row(sample) for sample in samples]

    def fill(file: Any) -> None:
        with pa.ipc.new_file(file, columns) as writer:
            for start in range(0, len(rows), ROWS):
                writer.write_batch(pa.RecordBatch.from_pylist(rows[start : start + ROWS], schema=columns))

    atomic_write(path, fill)


def skipped_of(path: Path) -> dict[str, str]:
    """What a shard's part of the source left out. Errors: DataError."""
    reader = open_part(path)
    return json.loads((reader.schema.metadata or {}).get(_SKIPPED, b"{}"))


def open_part(path: Path) -> Any:
    """A mapped shard. Errors: DataError."""
    pa = arrow()
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; prepare the set again, which makes only what is not there") from None
    except (OSError, pa.ArrowInvalid):
        raise DataError(f"{path} is damaged; remove it and prepare the set again, which makes only that part") from None


def _row(sample: Sample) -> dict[str, Any]:
    return {
        "name": sample.name,
        "captions": list(sample.captions),
        "style": sample.style,
        "licence": sample.licence,
        "origin": sample.origin,
        "bucket": sample.bucket,
        "original": list(sample.original),
        "crop": list(sample.crop),
        "latent": sample.latent.tobytes(),
        "pixels": None if sample.pixels is None else sample.pixels.tobytes(),
        "states": [state.tobytes() for state in sample.states],
        "pooled": [pooled.tobytes() for pooled in sample.pooled],
    }
