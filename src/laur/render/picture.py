"""Picture: pixels together with the recipe and the provenance that made them."""

from __future__ import annotations

import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from laur.core.recipe import Recipe
from laur.render import registry
from laur.render.embedded import AdapterHash, Provenance, make_embedded
from laur.render.output import Destination

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["AdapterHash", "Picture", "Provenance"]


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """One finished picture. In a notebook it shows itself."""

    pixels: np.ndarray
    """(H, W, 3) uint8, RGB."""
    recipe: Recipe
    """Filled in: what every file says."""
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(f"pixels must be (H, W, 3) uint8, not {self.pixels.shape} {self.pixels.dtype}")

    def __repr__(self) -> str:
        """One line: without pixels, and without the hashes that its recipe holds."""
        height, width = self.pixels.shape[:2]
        return f"Picture({width}x{height}, prompt={reprlib.repr(self.recipe.prompt)}, seed={self.recipe.seed})"

    @property
    def image(self) -> Image.Image:
        """As a Pillow image in RGB, a copy."""
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(self.pixels))

    def encode(self, format: str = registry.DEFAULT, *, metadata: bool = True) -> bytes:
        """The bytes of a file. Without metadata nothing at all stands in it beside the pixels.

        Raises NotFoundError for an unknown format, MissingDependencyError where Pillow lacks its codec.
        """
        embedded = make_embedded(self.recipe, self.provenance, self.pixels) if metadata else None
        return registry.get(format).render(self.image, embedded)

    def save(self, path: str | os.PathLike[str], format: str | None = None, metadata: bool = True) -> Path:
        """Write a whole file or none, and return where.

        A folder (one that exists, or a path that ends in a slash) gets a name of its own that overwrites nothing; a
        file of that name is replaced. Parent folders are made. The suffix says the format unless `format` does; a
        name without a suffix gets one. Raises OutputError, NotFoundError or MissingDependencyError, one line each.
        """
        return Destination.of_file(path, format=format).save(self, metadata=metadata)

    def _repr_png_(self) -> bytes:
        return self.encode("png")
