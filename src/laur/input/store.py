"""Where pictures are found by their content: in memory, and where the user keeps them.

A Recipe names its pictures by hash; a PictureStore gives the pictures back. One is shared by all recipes of an Engine.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from laur.core.errors import NotFoundError, OutputError, PictureError
from laur.input.image import InputPicture, read_mask, read_picture

if TYPE_CHECKING:
    from laur.input.image import PictureSource

DEFAULT_BYTES = 256 * 2**20
"""Some 85 pictures of a megapixel, or one of the largest that are read."""
PREFIX = "sha256:"

Source = Callable[[str], InputPicture | None]
"""Gives the picture of a reference, or None where it has none."""


class PictureStore:
    """Pictures by content. Safe to share between threads.

    Memory is bounded: those used least recently leave, but not while anything (a resolved recipe, a picture under
    way) still holds them. What is not in memory is asked for from the sources, in their order.
    """

    def __init__(self, sources: Sequence[Source] = (), *, max_bytes: int = DEFAULT_BYTES) -> None:
        """`max_bytes` bounds the pixels that are held for nobody in particular; 0 holds none."""
        self.sources = tuple(sources)
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, InputPicture] = OrderedDict()
        self._nbytes = 0
        self._all: WeakValueDictionary[str, InputPicture] = WeakValueDictionary()
        self._lock = threading.Lock()

    def add(self, picture: PictureSource | InputPicture) -> InputPicture:
        """Take a picture: a Pillow image, a file or its bytes. Its `ref` goes into a Recipe's `image`.

        Raises PictureError.
        """
        return self._keep(picture if isinstance(picture, InputPicture) else read_picture(picture))

    def add_mask(self, mask: PictureSource | InputPicture) -> InputPicture:
        """Take a mask; its `ref` goes into a Recipe's `mask`. Raises PictureError."""
        return self._keep(mask if isinstance(mask, InputPicture) else read_mask(mask))

    def get(self, ref: str, what: str = "image") -> InputPicture:
        """The picture of a reference. Raises NotFoundError where nobody has it; `what` names it there."""
        with self._lock:
            found = self._all.get(ref)
        for source in self.sources if found is None else ():
            found = source(ref)
            if found is not None:
                break
        if found is None:
            option = {"image": "--image FILE, in Python image=", "mask": "--mask FILE, in Python mask="}.get(what, "")
            raise NotFoundError(
                f"the recipe's {what}, {ref[: len(PREFIX) + 10]}…, is not at hand; give the file again ({option})"
            )
        return self._keep(found)

    def __contains__(self, ref: str) -> bool:
        try:
            self.get(ref)
        except (NotFoundError, PictureError):
            return False
        return True

    def _keep(self, picture: InputPicture) -> InputPicture:
        """Held as the one used last; the one object of that content."""
        ref = picture.ref
        with self._lock:
            picture = self._all.setdefault(ref, picture)
            if ref in self._kept:
                self._kept.move_to_end(ref)
                return picture
            if picture.pixels.nbytes <= self._max_bytes:
                self._kept[ref] = picture
                self._nbytes += picture.pixels.nbytes
            while self._nbytes > self._max_bytes:
                self._nbytes -= self._kept.popitem(last=False)[1].pixels.nbytes
            return picture


class PictureFolder:
    """A folder of canonical pictures, one PNG each, named by hash: a Source that also saves."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, ref: str) -> Path:
        """Where the picture of that reference is, or would be."""
        return self.folder / f"{ref.removeprefix(PREFIX)}.png"

    def __call__(self, ref: str) -> InputPicture | None:
        """The picture, None where there is no such file. Raises PictureError where the file is another picture now."""
        path = self.path(ref)
        if not path.stem.isalnum() or path.parent != self.folder or not path.is_file():
            return None
        for read in (read_picture, read_mask):
            picture = read(path)
            if picture.ref == ref:
                return picture
        raise PictureError(f"{path} is not the picture that its name says; remove it and give the picture again")

    def save(self, picture: InputPicture) -> Path:
        """Keep a picture; one that is there stays as it is. Raises OutputError."""
        from laur.utils.files import atomic_write

        path = self.path(picture.ref)

        def write(file: Any) -> None:
            picture.image.save(file, "PNG", compress_level=3)

        try:
            if not path.is_file():
                self.folder.mkdir(parents=True, exist_ok=True)
                atomic_write(path, write)
        except OSError as error:
            raise OutputError(
                f"cannot keep a copy of the picture in {self.folder}: {error.strerror or error}"
            ) from None
        return path


def user_folder() -> PictureFolder:
    """$LAUR_HOME/inputs: what the command line keeps, so that `laur reproduce` finds it again."""
    from laur.core.places import home_folder

    return PictureFolder(home_folder() / "inputs")
