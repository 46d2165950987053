"""Renderers by format name: how a picture becomes the bytes of a file.

A renderer of one's own is one call: `register(Renderer(name="ppm", suffixes=(".ppm",), …))`; from then on `save`,
`--format` and every other way to a file know it. Nothing here imports Pillow until something is rendered.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from laur.core.errors import MissingDependencyError, NotFoundError

if TYPE_CHECKING:
    from PIL.Image import Image

    from laur.render.embedded import Embedded

Encode = Callable[["Image", "Embedded | None"], bytes]
"""From an RGB image and what is written into the file beside it (None: nothing at all) to the file's bytes."""

DEFAULT = "png"
"""What is written when neither a suffix nor a format says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """One file format."""

    name: str
    """As in `--format`."""
    suffixes: tuple[str, ...]
    """With the dot, lower case; new files get the first."""
    media_type: str
    """For HTTP and notebooks."""
    lossless: bool
    """Whether the file gives back the very pixels."""
    encode: Encode
    feature: str | None = None
    """What `PIL.features` must report for this format, where Pillow may be built without it."""

    def require(self) -> None:
        """Raise MissingDependencyError if this machine cannot write the format; better asked before drawing."""
        if self.feature is None:
            return
        from PIL import features

        if not features.check(self.feature):
            raise MissingDependencyError(
                f"{self.name} needs a Pillow that was built with {self.feature}; "
                "get one with: pip install --upgrade --force-reinstall pillow"
            )

    def render(self, image: Image, embedded: Embedded | None = None) -> bytes:
        """The bytes of the whole file. Raises MissingDependencyError, see `require`."""
        self.require()
        return self.encode(image.convert("RGB"), embedded)


_renderers: dict[str, Renderer] = {}


def register(renderer: Renderer) -> Renderer:
    """Add a format. Raises ValueError if its name or one of its suffixes is taken."""
    for word in (renderer.name, *(suffix.removeprefix(".") for suffix in renderer.suffixes)):
        taken = _find(word)
        if taken is not None:
            raise ValueError(f"{word!r} is already the format {taken.name!r}; unregister that first")
    _renderers[renderer.name] = renderer
    return renderer


def unregister(name: str) -> None:
    """Take a format out again. Raises NotFoundError if it is not there."""
    del _renderers[get(name).name]


def formats() -> tuple[str, ...]:
    """Names of all formats, in the order of their registration."""
    return tuple(_renderers)


def get(name: str) -> Renderer:
    """The renderer of a format name or suffix (`jpeg`, `jpg`, `.JPG`). Raises NotFoundError, listing what there is."""
    renderer = _find(name)
    if renderer is None:
        near = difflib.get_close_matches(name.lower(), _renderers, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise NotFoundError(f"no picture format {name!r}; {hint}known are {', '.join(_renderers)}")
    return renderer


def knows(name: str) -> bool:
    """Whether `get(name)` would find a renderer."""
    return _find(name) is not None


def _find(name: str) -> Renderer | None:
    word = name.lower().removeprefix(".")
    for renderer in _renderers.values():
        if word == renderer.name or f".{word}" in renderer.suffixes:
            return renderer
    return None


def _pillow(name: str) -> Encode:
    def encode(image: Image, embedded: Embedded | None) -> bytes:
        from laur.render.encoders import ENCODERS

        return ENCODERS[name](image, embedded)

    return encode


for _name, _suffixes, _lossless, _feature in (
    ("png", (".png",), True, None),
    ("jpeg", (".jpg", ".jpeg"), False, "jpg"),
    ("webp", (".webp",), False, "webp"),
    ("avif", (".avif",), False, "avif"),
    ("tiff", (".tif", ".tiff"), True, None),
):
    register(
        Renderer(
            name=_name,
            suffixes=_suffixes,
            media_type=f"image/{_name}",
            lossless=_lossless,
            encode=_pillow(_name),
            feature=_feature,
        )
    )
