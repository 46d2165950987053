"""Where pictures go: names that overwrite nothing, whole files or none, and the system's refusals in plain words."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from laur.core.errors import OutputError
from laur.render import registry
from laur.utils.files import atomic_write

if TYPE_CHECKING:
    from laur.core.recipe import Recipe

SLUG_LENGTH = 48
"""Characters of the prompt in a file's name."""


class Saveable(Protocol):
    """A picture, as far as saving needs to know it."""

    @property
    def recipe(self) -> Recipe: ...  # noqa: D102

    def encode(self, format: str = ..., *, metadata: bool = ...) -> bytes: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The folder or file that the pictures of one run go to."""

    path: Path
    is_folder: bool
    renderer: registry.Renderer
    count: int = 1
    """Pictures in the run: several with one file's name are numbered, fox-1.png, fox-2.png …"""

    @classmethod
    def parse(cls, out: str | os.PathLike[str] | None, *, format: str | None = None, count: int = 1) -> Destination:
        """From `--out FILE_OR_FOLDER` and `--format`; None is the current folder.

        A path is a folder if it is one, ends in a slash, or has no suffix of a picture. Raises NotFoundError for an
        unknown format and OutputError if suffix and format contradict each other.
        """
        text = os.fspath(out) if out is not None else "."
        path = Path(text)
        suffix = path.suffix.lower()
        if _is_folder(text) or (not registry.knows(suffix) and not _looks_like_format(suffix) and not _special(path)):
            return cls(path=path, is_folder=True, renderer=registry.get(format or registry.DEFAULT), count=count)
        return cls(path=path, is_folder=False, renderer=_renderer(path, format), count=count)

    @classmethod
    def of_file(cls, path: str | os.PathLike[str], *, format: str | None = None) -> Destination:
        """As `parse`, but a name without a suffix is a file and gets one."""
        text = os.fspath(path)
        file = Path(text)
        if _is_folder(text) or file.suffix or _special(file):
            return cls.parse(text, format=format)
        renderer = registry.get(format or registry.DEFAULT)
        return cls(path=file.with_name(file.name + renderer.suffixes[0]), is_folder=False, renderer=renderer)

    def check(self) -> None:
        """Raise now what saving would raise later: a missing codec, a folder that cannot be written to."""
        self.renderer.require()
        if not self.is_folder and self.path.is_dir():
            raise output_error(IsADirectoryError(errno.EISDIR, ""), self.path)
        if not self.is_folder and _special(self.path):
            return
        folder = self.path if self.is_folder else self.path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise output_error(NotADirectoryError(errno.ENOTDIR, ""), self.path)
        try:
            with tempfile.TemporaryFile(dir=folder) as probe:  # what access() says is not always so
                probe.write(bytes(4096))
        except OSError as error:
            raise output_error(error, self.path) from None

    def save(self, picture: Saveable, index: int = 0, *, metadata: bool = True) -> Path:
        """Write picture `index` of the run and return its path. Raises OutputError, and then no part of it is there."""
        content = picture.encode(self.renderer.name, metadata=metadata)
        stem = self.path.stem if not self.is_folder else name_for(picture.recipe, index)
        folder = self.path if self.is_folder else self.path.parent
        if not self.is_folder and self.count == 1:
            return _write(self.path, content)
        if not self.is_folder:
            return _write(folder / f"{stem}-{index + 1}{self.path.suffix}", content)
        return _write_new(folder, stem, self.renderer.suffixes[0], content)


def name_for(recipe: Recipe, index: int = 0) -> str:
    """A file's name without suffix: the prompt's words and the seed, as in `a-red-fox-7`.

    Letters of any script stay. Without a seed the index stands in its place.
    """
    prompt = re.sub(r"<[^<>]*>|:\s*-?[\d.]+(?=\s*[)\]])|\bBREAK\b", " ", recipe.prompt)
    words = re.findall(r"\w+", unicodedata.normalize("NFC", prompt).replace("'", "").lower().replace("_", " "))
    slug = ""
    for word in words:
        longer = f"{slug}-{word}" if slug else word[:SLUG_LENGTH]
        if len(longer) > SLUG_LENGTH:
            break
        slug = longer
    # a file's name holds 255 bytes, and not all letters take one
    slug = slug.encode()[:200].decode("utf-8", "ignore")
    return f"{slug or 'picture'}-{index + 1 if recipe.seed is None else recipe.seed}"


def output_error(error: OSError, path: Path) -> OutputError:
    """The system's refusal to write `path`, in one line with a remedy."""
    why = {
        errno.ENOSPC: "the disk is full; free some space, or choose another place",
        errno.EDQUOT: "your disk quota is used up; free some space, or choose another place",
        errno.EFBIG: "the file would be larger than this system allows",
        errno.EACCES: "no permission; choose a folder that you can write to",
        errno.EPERM: "no permission; choose a folder that you can write to",
        errno.EROFS: "that file system is read-only; choose another place",
        errno.ENOENT: "a folder of that path cannot be made; choose another place",
        errno.EISDIR: "it is a folder; name a file in it, or end the path with a slash",
        errno.ENOTDIR: "a part of that path is a file, not a folder",
        errno.EEXIST: "a part of that path is a file, not a folder",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
        errno.ELOOP: "its links lead in a circle",
    }.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"cannot write {str(path)!r}: {why}")


def write_file(path: Path, content: bytes, *, replace: bool = True) -> Path:
    """Write a whole file or none, making parent folders. Raises OutputError; FileExistsError unless `replace`."""
    if "\0" in str(path):
        raise OutputError(f"cannot write {str(path)!r}: a file's name cannot hold a zero byte")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, path) from None
    try:
        atomic_write(path, content, replace=replace)
    except FileExistsError:
        if not replace:
            raise
        raise output_error(FileExistsError(errno.EEXIST, ""), path) from None
    except OSError as error:
        raise output_error(error, path) from None
    return path


def _write(path: Path, content: bytes) -> Path:
    return write_file(path, content)


def _write_new(folder: Path, stem: str, suffix: str, content: bytes) -> Path:
    """To the first free name of stem, stem-2, stem-3 …, also when other processes write here at the same time."""
    number = 1
    while True:
        path = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        if not os.path.lexists(path):
            try:
                return write_file(path, content, replace=False)
            except FileExistsError:
                pass
        number += 1


def _is_folder(text: str) -> bool:
    return text.endswith(("/", os.sep)) or Path(text).is_dir()


def _special(path: Path) -> bool:
    """A device or pipe, such as /dev/stdout."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _looks_like_format(suffix: str) -> bool:
    """`.gif` was meant as a format and must not become a folder's name; `.5` of v1.5 was not."""
    return re.fullmatch(r"\.[a-z]{2,5}\d?", suffix) is not None


def _renderer(path: Path, format: str | None) -> registry.Renderer:
    suffix = path.suffix.lower()
    if format is None:
        return registry.get(suffix) if suffix else registry.get(registry.DEFAULT)
    renderer = registry.get(format)
    if registry.knows(suffix) and registry.get(suffix) is not renderer:
        raise OutputError(f"{str(path)!r} ends in {suffix} but the format is {renderer.name}; change one of them")
    return renderer
