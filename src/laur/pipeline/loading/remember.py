"""Small facts about large files, kept on disk: what took seconds to find out is found out once."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, cast

from laur.core.places import cache_folder
from laur.utils.files import atomic_write

KEPT = 2_000
"""Facts in one file; the oldest are forgotten first."""


class Remembered:
    """JSON values by name. A memory that is missing or damaged is empty; one that cannot be written is not kept."""

    def __init__(self, file: str) -> None:
        """`file` is a name in Laur's cache folder."""
        self._path = cache_folder() / file
        self._facts: dict[str, Any] = {}
        self._changed = False
        with suppress(OSError, ValueError, RecursionError):
            facts: object = json.loads(self._path.read_text("utf-8"))
            if isinstance(facts, dict):
                self._facts = cast("dict[str, Any]", facts)

    def get(self, name: str) -> Any:
        """The fact of that name, None where there is none; it may have been tampered with."""
        return self._facts.get(name)

    def put(self, name: str, value: Any) -> None:
        """Remember a fact, as the newest."""
        self._facts.pop(name, None)
        self._facts[name] = value
        self._changed = True

    def save(self) -> None:
        """Write what is new, the whole file or nothing. Another process's news may be lost, and found out again."""
        if not self._changed:
            return
        newest = dict(list(self._facts.items())[-KEPT:])
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._path, json.dumps(newest, indent=0).encode())
        self._changed = False
