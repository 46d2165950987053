"""Teachers: published ways to render a picture in a style, from which adapters learn it.

A teacher takes a picture and gives another of the same size. What it draws hangs on the picture and a seed alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from laur.core.errors import NotFoundError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Teacher:
    """One of them; its code is imported when it first paints."""

    name: str
    module: str
    function: str
    source: str
    """The paper that it follows."""

    @property
    def sha256(self) -> str:
        """Of its code and what that calls, so that a set made by other code counts as another."""
        from laur.style.teachers import code

        return code.sha256(self.module, self.function)

    def __call__(self, picture: NDArray[uint8], seed: int = 0) -> NDArray[uint8]:
        """(H, W, 3) RGB to the same; white that touches the border counts as background."""
        import numpy as np

        from laur.style.teachers.tools import as_bytes, as_float

        paint = getattr(importlib.import_module(f"laur.style.teachers.{self.module}"), self.function)
        return as_bytes(paint(as_float(picture), np.random.default_rng(seed)))


_TABLE = (
    ("impressionism", "brushes", "Hertzmann 1998"),
    ("expressionism", "brushes", "Hertzmann 1998"),
    ("pointillism", "brushes", "Hertzmann 1998"),
    ("wash", "brushes", "Hertzmann 1998"),
    ("ink", "lines", "Winnemöller et al. 2012 (XDoG)"),
    ("pencil", "lines", "Lu et al. 2012"),
    ("watercolour", "wet", "Bousseau et al. 2006, Montesdeoca et al. 2017"),
    ("oil", "wet", "Kyprianidis et al. 2009"),
    ("fauvism", "flat", "Neumann & Neumann 2005, Hertzmann 1998"),
    ("cubism", "flat", "Collomosse & Hall 2003"),
    ("ukiyoe", "flat", "Winnemöller et al. 2006"),
    ("pixel_art", "flat", "Gerstner et al. 2012"),
    ("paper_cut", "flat", "Meng et al. 2010"),
    ("noir", "scenes", "Winnemöller et al. 2012 (XDoG)"),
    ("cyberpunk", "scenes", "Spencer et al. 1995"),
    ("science_fiction", "scenes", "Lambert and specular shading of a raised mask"),
    ("fantasy", "scenes", "Orton's soft focus"),
    ("surrealism", "scenes", "Beier & Neely 1992"),
)
TEACHERS: Mapping[str, Teacher] = MappingProxyType(
    {row[0].replace("_", "-"): Teacher(row[0].replace("_", "-"), row[1], row[0], row[2]) for row in _TABLE}
)
"""By name."""


def teacher(name: str) -> Teacher:
    """Errors: NotFoundError with the known names."""
    if name not in TEACHERS:
        raise NotFoundError(f"there is no teacher {name!r}; known are {', '.join(TEACHERS)}")
    return TEACHERS[name]
