"""A ready-made pack: `vectors.jsonl.xz`, an object a line with style, name, tags, licence and `svg` or `file`, and
`rasters.tar` with the files."""

from __future__ import annotations

import json
import lzma
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laur.core.errors import DataError
from laur.train.data import canvas
from laur.train.data.captions import captions
from laur.train.data.colours import PAINTS, dominant
from laur.train.data.picture import Drawn, Skip, unit

VECTORS, RASTERS = "vectors.jsonl.xz", "rasters.tar"
ONE_COLOUR = {"fluent ink", "emojione mono", "noto line", "game silhouette", "phosphor duotone", "health icons"}
"""Styles without colours: they are painted, so that a model learns colours of them too."""
TRIMMED = {"3d render", "pixel art", "clipart"}
PIXEL_ART = {"pixel art"}
_BLACK = 0.3
"""Part of the pictures of one colour that stay black."""


@dataclass(frozen=True, slots=True)
class Icon:
    """One line of a pack."""

    name: str
    title: str
    tags: tuple[str, ...]
    style: str
    licence: str
    origin: str
    svg: str | None
    raster: Raster | None

    def draw(self, size: int) -> Drawn:
        """See Record."""
        picture = self._picture(size)
        paint = ""
        if self.style in ONE_COLOUR:
            words = list(PAINTS)
            paint = "black" if unit("black", self.name) < _BLACK else words[int(unit("paint", self.name) * len(words))]
            picture = canvas.painted(picture, PAINTS[paint])
        image = canvas.centred(picture, size, trim=self.style in TRIMMED, pixel_art=self.style in PIXEL_ART)
        hues = () if paint else dominant(image)
        return Drawn(image, captions(self.title, self.tags, self.style, paint=paint, hues=hues, key=self.name))

    def _picture(self, size: int) -> Any:
        if self.svg is not None:
            return canvas.render_svg(self.svg, size)
        if self.raster is None:
            raise Skip("names a file that the pack does not hold")
        return canvas.read_picture(self.raster.read())


@dataclass(frozen=True, slots=True)
class Raster:
    """A file inside the archive, by place."""

    archive: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Its content."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Pack:
    """The source. Lines are kept as they are packed; each is read when its turn comes."""

    square = True

    def __init__(self, folder: Path, *, styles: Sequence[str] = (), limit: int | None = None) -> None:
        """With `styles` only those; with `limit` that many, spread evenly over the pack. Errors: DataError."""
        self.folder = folder
        vectors = folder / VECTORS
        try:
            with lzma.open(vectors, "rt", encoding="utf-8") as lines:
                found = [values for values in map(json.loads, lines) if not styles or values["style"] in styles]
        except FileNotFoundError:
            raise DataError(f"{folder} holds no {VECTORS}; give a pack's folder") from None
        except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError):
            raise DataError(f"{vectors} is damaged; get the pack again") from None
        if unknown := set(styles) - {values["style"] for values in found}:
            raise DataError(f"{folder} has no style {sorted(unknown)[0]!r}; leave it out")
        if limit is not None and limit < len(found):
            found = [found[i * len(found) // limit] for i in range(limit)]
        self._lines = found
        self._rasters = self._index(folder / RASTERS)
        self._styles, self._limit = tuple(styles), limit

    def describe(self) -> Mapping[str, Any]:
        """See Source."""
        size = (self.folder / VECTORS).stat().st_size
        return {"kind": "pack", "bytes": size, "styles": list(self._styles), "limit": self._limit}

    def __len__(self) -> int:
        return len(self._lines)

    def records(self, start: int, stop: int) -> Iterator[Icon]:
        """See Source."""
        for number, values in enumerate(self._lines[start:stop], start):
            yield Icon(
                name=f"{number:06d} {values['style']}/{values['name']}",
                title=values["name"],
                tags=tuple(values.get("tags", ())),
                style=values["style"],
                licence=values.get("lic", ""),
                origin=values.get("src", ""),
                svg=values.get("svg"),
                raster=self._rasters.get(values.get("file", "")),
            )

    @staticmethod
    def _index(path: Path) -> dict[str, Raster]:
        if not path.exists():
            return {}
        try:
            with tarfile.open(path) as archive:
                return {m.name: Raster(path, m.offset_data, m.size) for m in archive if m.isfile()}
        except (OSError, tarfile.TarError):
            raise DataError(f"{path} is damaged; get the pack again") from None
