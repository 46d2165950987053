"""Large sets: what is held of them in memory, how many files are open, how large their shards are."""

from __future__ import annotations

import gc
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from laur.train.data import shards
from laur.train.data.maker import shard_for
from laur.train.data.reader import OPEN, TrainingSet

SAMPLE = shards.Sample(
    name="one",
    captions=("short", "a long one"),
    style="ink",
    licence="MIT",
    origin="here",
    bucket=0,
    original=(64, 64),
    crop=(0, 0),
    latent=np.zeros((4, 8, 8), np.float16),
    pixels=None,
    states=(),
    pooled=(),
)


def rows(folder: Path, parts: int, each: int = 64, shape: tuple[int, int, int] = (4, 64, 64)) -> TrainingSet:
    """A set of `parts` shards with latents of zeros but for the picture's number."""
    folder.mkdir()
    for part in range(parts):
        latents = [np.full(shape, part * each + row, np.float16) for row in range(each)]
        samples = [replace(SAMPLE, name=f"{part}-{row}", latent=latent) for row, latent in enumerate(latents)]
        shards.write(folder / shards.part_name(part), samples, {})
    values: dict[str, Any] = {
        "format": shards.FORMAT,
        "source": {},
        "model": "none",
        "encoder": "",
        "size": shape[1] * 8,
        "channels": shape[0],
        "downscale": 8,
        "buckets": [[shape[1] * 8, shape[2] * 8]],
        "pictures": parts * each,
        "parts": [each] * parts,
        "styles": {"ink": parts * each},
        "licences": {"MIT": parts * each},
        "skipped": {},
    }
    (folder / shards.INDEX).write_text(json.dumps(values))
    return TrainingSet.open(folder)


def read_through(folder: Path) -> int:
    """Most bytes that Python, NumPy and Arrow had allocated at a time while a whole set was read."""
    pool = pa.default_memory_pool()
    gc.collect()
    before = pool.bytes_allocated()
    tracemalloc.start()
    data = TrainingSet.open(folder)
    assert len(data.bucket) == len(data.weights({"*": 1.0})) == len(data)
    for start in range(0, len(data), 8):
        indices = np.arange(start, start + 8)
        latents = data.latents(indices)
        assert latents[3, 0, 0, 0] == start + 3
        assert len(data.captions(indices)) == len(data.names(indices)) == 8
    held = pool.bytes_allocated() - before
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak + held


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """Sixteen times the pictures, 32 MB of latents more: nothing but their columns of numbers is held."""
    rows(tmp_path / "small", 1)
    rows(tmp_path / "large", 16)
    read_through(tmp_path / "small")  # imports and caches
    small, large = read_through(tmp_path / "small"), read_through(tmp_path / "large")
    added = 15 * 64
    assert large - small < added * 200  # bytes a picture; a latent has 32,768


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    """Each mapped shard holds a file open: only so many are at a time, and all are read."""
    count = OPEN + 40
    data = rows(tmp_path / "set", count, each=1, shape=(1, 2, 2))
    gc.collect()
    before = len(list(Path("/dev/fd").iterdir()))
    assert data.latents(np.arange(count))[:, 0, 0, 0].tolist() == list(range(count))
    assert len(list(Path("/dev/fd").iterdir())) - before <= OPEN


def test_shards_are_smaller_where_rows_are_large() -> None:
    assert shard_for(256, pixels=True, text_states=False) == shard_for(1024, pixels=False, text_states=False) == 512
    assert shard_for(1024, pixels=True, text_states=True) * (3 * 1024**2 + 1_500_000) < 300 << 20
