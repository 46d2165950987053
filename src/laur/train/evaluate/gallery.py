"""Pictures on disk, each under the hash of all that makes it: what was drawn once is not drawn again.

pictures/KEY.png      by plan, precision and version; each tells in its metadata how it was made
arrays/KEY.npy        features and scores of one subject, by its pictures and the network
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur import __version__
from laur.core.errors import OutputError, PictureError
from laur.utils.files import atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from laur.core.recipe import Recipe
    from laur.pipeline.engine import Engine
    from laur.pipeline.resolve import Resolved

TOGETHER = 16
"""Recipes that are given to the Engine at a time; a picture is saved when it is finished."""
CHUNK = 64
"""Pictures in memory at a time."""

Report = Callable[[int], None]
"""Is told how many more pictures are there."""


class Gallery:
    """Draws what is missing, and reads what is there."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        """Errors: OutputError where the folder cannot be written."""
        self.folder = folder
        self._engine = engine
        try:
            for name in ("pictures", "arrays"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror}") from None

    def check(self, recipe: Recipe) -> None:
        """Errors: those of what this asks for and the model cannot do."""
        self._engine.resolve(recipe)

    def draw(self, recipes: Sequence[Recipe], report: Report = lambda _: None) -> list[str]:
        """The keys of these pictures, all of which are there when it returns. The first that fails raises."""
        jobs = [self._engine.resolve(recipe) for recipe in recipes]
        keys = [self._key(job) for job in jobs]
        missing = {key: job for key, job in zip(keys, jobs, strict=True) if not self._path(key).is_file()}
        report(len(keys) - len(missing))
        waiting = list(missing.items())
        for start in range(0, len(waiting), TOGETHER):
            self._draw(dict(waiting[start : start + TOGETHER]), report)
        return keys

    def chunks(self, keys: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
        """The pictures (n, H, W, 3), some at a time, in order. Errors: PictureError."""
        for start in range(0, len(keys), CHUNK):
            yield self.pictures(keys[start : start + CHUNK])

    def pictures(self, keys: Sequence[str]) -> NDArray[np.uint8]:
        """These pictures (n, H, W, 3). Errors: PictureError."""
        from PIL import Image

        found: list[NDArray[np.uint8]] = []
        for key in keys:
            try:
                with Image.open(self._path(key)) as image:
                    found.append(np.asarray(image.convert("RGB")))
            except OSError as error:
                raise PictureError(f"cannot read {self._path(key)}: {error}; remove it to draw it again") from None
        return np.stack(found)

    def array(self, keys: Sequence[str], what: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """What `make` gives for these pictures, kept under `what`."""
        name = hashlib.sha256("\0".join([what, *keys]).encode()).hexdigest()[:32]
        path = self.folder / "arrays" / f"{name}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # none yet, or cut off
            made = make()
        buffer = io.BytesIO()
        np.save(buffer, made, allow_pickle=False)
        self._write(path, buffer.getvalue())
        return made

    def _draw(self, jobs: dict[str, Resolved], report: Report) -> None:
        from laur.pipeline.events import Done, Failed

        keys = {job.plan.key: key for key, job in jobs.items()}
        for event in self._engine.stream(jobs.values()):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                self._write(self._path(keys[event.ticket.plan.key]), event.picture.encode("png"))
                report(1)

    def _key(self, job: Resolved) -> str:
        place = self._engine.library.placement
        parts = (job.plan.key, place.dtype_name, place.device.type, __version__)
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]

    def _path(self, key: str) -> Path:
        return self.folder / "pictures" / f"{key}.png"

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        try:
            atomic_write(path, content)
        except OSError as error:
            raise OutputError(
                f"cannot write {path.parent}: {error.strerror}; what is there stays, and the same command goes on"
            ) from None
