"""A prepared set that keeps its pictures, as a source: to render it anew, or to encode it for another model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import DataError
from laur.train.data import shards
from laur.train.data.picture import Drawn
from laur.train.data.reader import TrainingSet

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Kept:
    """One picture of the set."""

    pictures: TrainingSet
    index: int
    name: str
    captions: tuple[str, ...]
    style: str
    licence: str
    origin: str

    def draw(self, size: int) -> Drawn:
        """See Record; as large as the set keeps it."""
        del size
        import numpy as np
        from PIL import Image

        kept = self.pictures.pixels(np.array([self.index]))[0]
        pixels: NDArray[Any] = ((kept + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()
        return Drawn(Image.fromarray(pixels), self.captions)


class Prepared:
    """The source."""

    def __init__(self, folder: Path, *, limit: int | None = None) -> None:
        """With `limit` that many, spread evenly. Errors: DataError where the set keeps no pictures."""
        self._set = TrainingSet.open(folder)
        if not self._set.info.keeps_pixels:
            raise DataError(f"{folder} keeps no pictures; prepare it with --pixels")
        self.square = len(self._set.info.buckets) == 1
        count = len(self._set)
        places = range(count) if limit is None or limit >= count else [i * count // limit for i in range(limit)]
        self._indices = list(places)
        self._rows = _rows(folder, len(self._set.info.parts))

    def describe(self) -> Mapping[str, Any]:
        """See Source."""
        told = {"content": self._set.info.key, "pictures": len(self)}
        return {"kind": "set", **told, "beneath": dict(self._set.info.source)}

    def __len__(self) -> int:
        return len(self._indices)

    def records(self, start: int, stop: int) -> Iterator[Kept]:
        """See Source."""
        for index in self._indices[start:stop]:
            row = self._rows[index]
            yield Kept(
                self._set,
                index,
                row["name"],
                tuple(row["captions"]),
                row["style"],
                row["licence"],
                row["origin"],
            )


def _rows(folder: Path, parts: int) -> list[dict[str, Any]]:
    """What is said of each picture, without the picture."""
    columns = ["name", "captions", "style", "licence", "origin"]
    found: list[dict[str, Any]] = []
    for part in range(parts):
        reader = shards.open_part(folder / shards.part_name(part))
        for i in range(reader.num_record_batches):
            found += reader.get_batch(i).select(columns).to_pylist()
    return found
