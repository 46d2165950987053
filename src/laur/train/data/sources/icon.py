"""A drawing with a name: vector or raster, centred on white, one colour if it has none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from laur.train.data import canvas
from laur.train.data.captions import captions
from laur.train.data.colours import PAINTS, dominant
from laur.train.data.picture import Drawn, Skip, unit

if TYPE_CHECKING:
    from PIL.Image import Image

_BLACK = 0.3
"""Part of the pictures of one colour that stay black."""


class Raster(Protocol):
    """A picture's file, read when it is drawn."""

    def read(self) -> bytes:
        """Its content. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class InFolder:
    """A file of its own."""

    path: Path

    def read(self) -> bytes:
        """See Raster."""
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class InArchive:
    """A file inside an archive that is not compressed, by place."""

    archive: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """See Raster."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Icon:
    """One drawing."""

    name: str
    title: str
    """What it shows."""
    tags: tuple[str, ...]
    style: str
    licence: str
    origin: str
    svg: str | None = None
    raster: Raster | None = None
    plain: bool = False
    """Without colours of its own: it is painted, so that a model learns colours of it too."""
    trim: bool = False
    """Cut off what is empty about it."""
    pixel_art: bool = False

    def draw(self, size: int) -> Drawn:
        """See Record."""
        picture = self._picture(size)
        paint = ""
        if self.plain:
            words = list(PAINTS)
            paint = "black" if unit("black", self.name) < _BLACK else words[int(unit("paint", self.name) * len(words))]
            picture = canvas.painted(picture, PAINTS[paint])
        image = canvas.centred(picture, size, trim=self.trim, pixel_art=self.pixel_art)
        hues = () if paint else dominant(image)
        return Drawn(image, captions(self.title, self.tags, self.style, paint=paint, hues=hues, key=self.name))

    def _picture(self, size: int) -> Image:
        if not self.title.strip():
            raise Skip("has no caption: its name says nothing")
        if self.svg is not None:
            return canvas.render_svg(self.svg, size)
        if self.raster is None:
            raise Skip("names a file that is not there")
        try:
            return canvas.read_picture(self.raster.read())
        except OSError as error:
            raise Skip(f"cannot be read: {error.strerror}") from None
