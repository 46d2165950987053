"""A ready-made pack: `vectors.jsonl.xz`, an object a line with style, name, tags, licence and `svg` or `file`, and
`rasters.tar` with the files."""

from __future__ import annotations

import difflib
import json
import lzma
import tarfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from laur.core.errors import DataError
from laur.train.data.sources.icon import Icon, InArchive

VECTORS, RASTERS = "vectors.jsonl.xz", "rasters.tar"
ONE_COLOUR = {"fluent ink", "emojione mono", "noto line", "game silhouette", "phosphor duotone", "health icons"}
"""Styles without colours: they are painted, so that a model learns colours of them too."""
TRIMMED = {"3d render", "pixel art", "clipart"}
PIXEL_ART = {"pixel art"}


class Pack:
    """The source. Lines stay packed; each is read when its turn comes."""

    square = True

    def __init__(self, folder: Path, *, styles: Sequence[str] = (), limit: int | None = None) -> None:
        """With `styles` only those; with `limit` that many, spread evenly over the pack. Errors: DataError."""
        self.folder = folder
        self._styles, self._limit = tuple(styles), limit
        places, known = array("L"), set[str]()
        for place, values in enumerate(self._read()):
            known.add(values["style"])
            if not styles or values["style"] in styles:
                places.append(place)
        for style in set(styles) - known:
            near = difflib.get_close_matches(style, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known)[:8])}"
            raise DataError(f"{folder} has no style {style!r}; {hint}")
        if limit is not None and limit < len(places):
            places = array("L", (places[i * len(places) // limit] for i in range(limit)))
        self._places = places
        self._rasters = self._index(folder / RASTERS)
        self._lines: Iterator[Any] = iter(())
        self._next = -1

    def describe(self) -> Mapping[str, Any]:
        """See Source."""
        size = (self.folder / VECTORS).stat().st_size
        return {"kind": "pack", "bytes": size, "styles": list(self._styles), "limit": self._limit}

    def __len__(self) -> int:
        return len(self._places)

    def records(self, start: int, stop: int) -> Iterator[Icon]:
        """See Source."""
        for number, place in enumerate(self._places[start:stop], start):
            values = self._line(place)
            yield Icon(
                name=f"{number:06d} {values['style']}/{values['name']}",
                title=values["name"],
                tags=tuple(values.get("tags", ())),
                style=values["style"],
                licence=values.get("lic", ""),
                origin=values.get("src", ""),
                svg=values.get("svg"),
                raster=self._rasters.get(values.get("file", "")),
                plain=values["style"] in ONE_COLOUR,
                trim=values["style"] in TRIMMED,
                pixel_art=values["style"] in PIXEL_ART,
            )

    def _line(self, place: int) -> Any:
        """One line. They are asked for in order, so the file is read once."""
        if self._next < 0 or place < self._next:
            self._lines, self._next = self._read(), 0
        for values in self._lines:
            self._next += 1
            if self._next == place + 1:
                return values
        raise DataError(f"{self.folder / VECTORS} has changed while it was read; give the same command again")

    def _read(self) -> Iterator[Any]:
        """All lines. Errors: DataError."""
        vectors = self.folder / VECTORS
        try:
            with lzma.open(vectors, "rt", encoding="utf-8") as lines:
                for line in lines:
                    values = json.loads(line)
                    if not isinstance(values, dict) or not {"name", "style"} <= values.keys():
                        raise ValueError
                    yield values
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(f"{self.folder} holds no {VECTORS}; give a pack's folder") from None
        except (OSError, EOFError, lzma.LZMAError, ValueError):
            raise DataError(f"{vectors} is damaged; get the pack again") from None

    @staticmethod
    def _index(path: Path) -> dict[str, InArchive]:
        if not path.exists():
            return {}
        try:
            with tarfile.open(path) as archive:
                return {m.name: InArchive(path, m.offset_data, m.size) for m in archive if m.isfile()}
        except (OSError, tarfile.TarError):
            raise DataError(f"{path} is damaged; get the pack again") from None
