"""The folder that pictures go to. What is there as a whole file is done; what failed is written down by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from laur.core.errors import OutputError
from laur.render import registry
from laur.render.output import output_error
from laur.serve.batch.wishes import Wish
from laur.utils.files import atomic_write, locked

FAILURES = "failures.jsonl"
LOCK = ".batch.lock"


class Folder:
    """One batch's. Hold it with `with`: another process is refused meanwhile."""

    def __init__(self, path: Path, format: str | None = None) -> None:
        """Errors: NotFoundError for a format, MissingDependencyError for its codec."""
        self.path = path
        self.renderer = registry.get(format or registry.DEFAULT)
        self.renderer.require()
        self._done: set[str] = set()

    def __enter__(self) -> Folder:
        """Errors: OutputError, also where another batch holds it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.path / LOCK, wait=False)
            self._lock.__enter__()
        except BlockingIOError:
            raise OutputError(f"another batch writes to {self.path}; wait for it, or name another folder") from None
        except OSError as error:
            raise output_error(error, self.path) from None
        with suppress(OSError):
            (self.path / FAILURES).unlink(missing_ok=True)  # what failed is tried again
        self._done = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        for name in [p.name for p in self.path.iterdir() if p.name.startswith(".") and p.name.endswith(".tmp")]:
            with suppress(OSError):
                (self.path / name).unlink()
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__(None, None, None)

    def file(self, wish: Wish) -> Path:
        """Where its picture is or will be."""
        return self.path / f"{wish.stem}{self.renderer.suffixes[0]}"

    def has(self, wish: Wish) -> bool:
        """Whether it is done."""
        return self.file(wish).name in self._done

    def write(self, wish: Wish, content: bytes) -> Path:
        """A whole file or none. Errors: OutputError."""
        path = self.file(wish)
        try:
            atomic_write(path, content)
        except OSError as error:
            raise output_error(error, path) from None
        self._done.add(path.name)
        return path

    def fail(self, wish: Wish, reason: str) -> None:
        """Write down what is wrong with a line."""
        try:
            with (self.path / FAILURES).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"line": wish.line, "error": reason}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise output_error(error, self.path / FAILURES) from None

    def failures(self) -> Iterator[dict[str, object]]:
        """What was written down in this run."""
        with suppress(FileNotFoundError), (self.path / FAILURES).open(encoding="utf-8") as file:
            yield from map(json.loads, file)
