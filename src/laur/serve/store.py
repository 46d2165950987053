"""Where results lie: a folder, S3, or any other place that fsspec knows. Queues hold only references to them.

A file is named by its content's key, so that writing it again changes nothing, and no name comes from a user.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from laur.core.errors import LaurError, MissingDependencyError, NotFoundError, OutputError

PROBE = 2 * 2**20
"""Bytes that `probe` writes: on a disk that is nearly full a small file tells nothing."""
_KEY = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,12}")


class Store:
    """Files by key. Its methods block: call them from threads."""

    def __init__(self, url: str | Path, *, keep: float = 2 * 24 * 3600.0) -> None:
        """`url` is a folder, s3://BUCKET/PREFIX, memory:// or another of fsspec's; what it needs is in its environment.

        `keep` is how many seconds a file stays, see `sweep`. Raises MissingDependencyError, OutputError.
        """
        try:
            import fsspec
        except ImportError:
            raise MissingDependencyError(
                "a store of results needs fsspec; install it with: pip install 'lcm-laur[serve]'"
            ) from None
        self.url, self.keep = str(url), keep
        self._trial = f"{secrets.token_hex(32)}.probe"  # one for each process, swept as others are
        try:
            self._fs, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            raise MissingDependencyError(f"a store at {self.url[:200]}: {error}") from None
        except ValueError as error:
            raise OutputError(f"a store at {self.url[:200]}: {error}") from None
        self._root = root.rstrip("/")
        protocol: Any = self._fs.protocol
        self._local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def put(self, key: str, content: bytes) -> bytes:
        """Keep `content` under `key` unless there is something; returns what is there then. Raises OutputError."""
        path = self._path(key)
        try:
            return self.get(key)
        except NotFoundError:
            pass
        self._write(path, content)
        return content

    def probe(self) -> None:
        """Write a file of a large picture's size, and remove it. Raises OutputError where that fails."""
        self._write(self._path(self._trial), bytes(PROBE))
        with suppress(OutputError):  # a bucket where nothing may be removed can be written all the same
            self.remove(self._trial)

    def get(self, key: str) -> bytes:
        """The file of that key. Raises NotFoundError, OutputError."""
        path = self._path(key)
        with _told("read", key):
            content: bytes = self._fs.cat_file(path)
        return content

    def has(self, key: str) -> bool:
        """Whether the file is there. An unreachable store has nothing."""
        try:
            return bool(self._fs.exists(self._path(key)))
        except (OSError, NotFoundError):
            return False

    def age(self, key: str) -> float:
        """Seconds since the file was written. Raises NotFoundError, OutputError."""
        with _told("read", key):
            return time.time() - _written(self._fs.info(self._path(key)))

    def renew(self, key: str) -> None:
        """Begin a file's time anew. Raises NotFoundError, OutputError."""
        path = self._path(key)
        with _told("written", key):
            if self._local:
                os.utime(path)
                return
            self._fs.pipe_file(path, self.get(key))

    def remove(self, key: str) -> bool:
        """Remove a file before its time; whether there was one. Raises OutputError."""
        path = self._path(key)
        try:
            with _told("written", key):
                if not self._fs.exists(path):  # S3 removes what never was without a word
                    return False
                self._fs.rm_file(path)
        except NotFoundError:
            return False
        return True

    def sweep(self) -> int:
        """Remove what is older than `keep` seconds; returns how many. On S3 a rule of the bucket's lifecycle does it
        as well, without listing everything."""
        try:
            found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
        except FileNotFoundError:
            return 0
        removed = 0
        for path, info in found.items():
            if _KEY.fullmatch(path.rpartition("/")[2]) and time.time() - _written(info) > self.keep:
                try:
                    if time.time() - _written(self._fs.info(path)) <= self.keep:  # renewed since it was listed
                        continue
                    self._fs.rm_file(path)
                    removed += 1
                except FileNotFoundError:  # another process was quicker
                    continue
        return removed

    def _write(self, path: str, content: bytes) -> None:
        with _told("written"):
            if self._local:
                from laur.utils.files import atomic_write

                Path(path).parent.mkdir(parents=True, exist_ok=True)
                atomic_write(path, content)
            else:
                self._fs.pipe_file(path, content)

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise NotFoundError(f"no result {key[:80]!r}; a key is 64 hexadecimal digits, a dot and a format")
        return f"{self._root}/{key[:2]}/{key}"


@contextmanager
def _told(what: str, key: str | None = None) -> Generator[None]:
    """A file system's fault as one of ours, for each raises its own; without a key nothing is looked for."""
    try:
        yield
    except LaurError:
        raise
    except Exception as error:
        if key is not None and isinstance(error, FileNotFoundError):
            raise NotFoundError(f"no result {key[:80]!r}; it never was, or has expired") from None
        why = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise OutputError(f"the store of results cannot be {what}: {why}") from None


def _written(info: dict[str, Any]) -> float:
    for name in ("mtime", "LastModified", "last_modified", "created", "updated"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()  # a file system that does not tell: nothing expires
