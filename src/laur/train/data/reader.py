"""A prepared set, read."""

from __future__ import annotations

import difflib
import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import DataError
from laur.train.data import shards

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

OPEN = 256
"""Shards that are mapped at a time: each holds a file open, of which many systems allow 1,024."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetInfo:
    """What set.json says."""

    format: int
    source: Mapping[str, Any]
    """What the source said of itself."""
    model: str
    """The checkpoint whose autoencoder made the latents, by name."""
    encoder: str
    """sha256 over that autoencoder's weights and how its latents are scaled."""
    text: str = ""
    """`Checkpoint.key` of the text encoders that made the stored states; empty where there are none."""
    size: int
    channels: int
    """Of a latent."""
    downscale: int
    buckets: Sequence[tuple[int, int]]
    """(height, width) in pixels, by number."""
    pictures: int
    parts: Sequence[int]
    """Pictures in each shard."""
    styles: Mapping[str, int]
    licences: Mapping[str, int]
    skipped: Mapping[str, str]
    """Name to reason, of the first ones."""
    skipped_count: int = 0
    keeps_pixels: bool = False
    key: str = field(default="", compare=False)
    """sha256 over all of this."""


class TrainingSet:
    """Pictures by their place, 0 … len - 1. Nothing is held but the columns of buckets and styles."""

    def __init__(self, folder: Path, info: SetInfo) -> None:
        """See `open`."""
        self.folder = folder
        self.info = info
        self._starts = [0, *accumulate(info.parts)]
        self._reader = lru_cache(OPEN)(self._opened)

    @classmethod
    def open(cls, folder: Path) -> TrainingSet:
        """Errors: DataError where it is no set, unfinished or damaged."""
        index = folder / shards.INDEX
        try:
            raw = index.read_bytes()
            values: dict[str, Any] = json.loads(raw)
            values["buckets"] = [tuple(pair) for pair in values["buckets"]]
            values["key"] = hashlib.sha256(raw).hexdigest()
            info = SetInfo(**values)
        except FileNotFoundError:
            what = (
                "an unfinished set; run the same `laur data prepare` again" if _has_parts(folder) else "no prepared set"
            )
            raise DataError(f"{folder} is {what}") from None
        except OSError as error:
            raise DataError(f"cannot read {index}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{index} is damaged; prepare the set again") from None
        if info.format != shards.FORMAT:
            raise DataError(f"{folder} has format {info.format}, this Laur reads {shards.FORMAT}; prepare it again")
        return cls(folder, info)

    def __len__(self) -> int:
        return self.info.pictures

    @cached_property
    def bucket(self) -> NDArray[np.int32]:
        """(n,) the bucket's number of each picture."""
        parts = [np.asarray(self._column(part, "bucket"), dtype=np.int32) for part in range(len(self.info.parts))]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def weights(self, mix: Mapping[str, float]) -> NDArray[np.float64]:
        """(n,) how often each picture is drawn, relative to the others: the weight of its style, so that of two styles
        with one weight the larger is seen more.

        "*" stands for every style that is not named, which otherwise is left out. Errors: DataError for a style that
        the set does not have.
        """
        for style in mix:
            if style != "*" and style not in self.info.styles:
                near = difflib.get_close_matches(style, list(self.info.styles), 1)
                hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(list(self.info.styles)[:8])}"
                raise DataError(f"the set has no style {style!r}{hint}")
        rest = mix.get("*", 0.0)
        table = {style: mix.get(style, rest) for style in self.info.styles}
        parts = [
            np.array([table[style] for style in self._column(part, "style")], dtype=np.float64)
            for part in range(len(self.info.parts))
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def latents(self, indices: NDArray[np.int64]) -> Tensor:
        """(B, C, h, w) float32; all of one bucket."""
        import torch

        height, width = self._shape(indices)
        down = self.info.downscale
        shape = (self.info.channels, height // down, width // down)
        return torch.from_numpy(self._arrays(indices, "latent", np.float16, shape)).float()

    def pixels(self, indices: NDArray[np.int64]) -> Tensor:
        """(B, 3, H, W) float32 in [-1, 1]; all of one bucket. Errors: DataError where the set keeps none."""
        import torch

        if not self.info.keeps_pixels:
            raise DataError(f"{self.folder} keeps no pictures; prepare it with --pixels")
        height, width = self._shape(indices)
        pixels = self._arrays(indices, "pixels", np.uint8, (height, width, 3))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1

    def captions(self, indices: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Of each picture, short to long."""
        return [tuple(self._value(index, "captions")) for index in indices]

    def names(self, indices: NDArray[np.int64]) -> tuple[str, ...]:
        """Of each picture."""
        return tuple(self._value(index, "name") for index in indices)

    def styles(self, indices: NDArray[np.int64]) -> tuple[str, ...]:
        """Of each picture."""
        return tuple(self._value(index, "style") for index in indices)

    def states(self, index: int, caption: int, width: int) -> tuple[Tensor, Tensor | None] | None:
        """Stored text states (L, width) and pooled (P,) of one caption; None where the set keeps none."""
        import torch

        if not self.info.text:
            return None
        states = np.frombuffer(self._value(index, "states")[caption], np.float16).reshape(-1, width)
        pooled = self._value(index, "pooled")
        other = torch.from_numpy(np.frombuffer(pooled[caption], np.float16).copy()).float() if pooled else None
        return torch.from_numpy(states.copy()).float(), other

    def sizes(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, 6) as SDXL is told: original height and width, crop from top and left, target height and width."""
        target = self._shape(indices)
        rows = [(*self._value(i, "original"), *self._value(i, "crop"), *target) for i in indices]
        return np.array(rows, dtype=np.float32)

    def _shape(self, indices: NDArray[np.int64]) -> tuple[int, int]:
        numbers = np.unique(self.bucket[indices])
        if len(numbers) != 1:
            raise ValueError(f"the pictures of a batch lie in {len(numbers)} buckets")
        return self.info.buckets[int(numbers[0])]

    def _arrays(
        self, indices: NDArray[np.int64], column: str, dtype: type[np.generic], shape: tuple[int, ...]
    ) -> NDArray[Any]:
        found = np.empty((len(indices), *shape), dtype)
        for row, index in enumerate(indices):
            found[row] = np.frombuffer(self._buffer(int(index), column), dtype).reshape(shape)
        return found

    def _place(self, index: int) -> tuple[Any, int]:
        """The record batch that holds a picture, and its row there."""
        part = bisect_right(self._starts, index) - 1
        row = index - self._starts[part]
        return self._reader(part).get_batch(row // shards.ROWS), row % shards.ROWS

    def _buffer(self, index: int, column: str) -> Any:
        batch, row = self._place(index)
        return batch.column(column)[row].as_buffer()

    def _value(self, index: int | np.integer[Any], column: str) -> Any:
        batch, row = self._place(int(index))
        return batch.column(column)[row].as_py()

    def _column(self, part: int, column: str) -> list[Any]:
        reader = self._reader(part)
        return [
            value for i in range(reader.num_record_batches) for value in reader.get_batch(i).column(column).to_pylist()
        ]

    def _opened(self, part: int) -> Any:
        return shards.open_part(self.folder / shards.part_name(part))


def _has_parts(folder: Path) -> bool:
    return (folder / shards.part_name(0)).exists()
