"""The file of recipes: an object a line, read when its turn comes, so that memory does not grow with the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from laur.core.errors import DataError, LaurError, RecipeError
from laur.core.recipe import Recipe

NAME_KEY = "name"
"""A key beside a recipe's own: the picture's file name without suffix."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One line that is not empty."""

    line: int
    """From 1, as editors count."""
    stem: str
    """The picture's file name without suffix: by it a picture that is there is known."""
    recipe: Recipe | LaurError
    """Or what is wrong with the line."""


class Wishes:
    """The lines of one JSONL file."""

    def __init__(self, path: Path) -> None:
        """Counts the lines. Errors: DataError."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._count = sum(1 for line in file if line.strip())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from None
        if not self._count:
            raise DataError(f'{path} holds no recipes; write one JSON object a line, as in {{"prompt": "a fox"}}')

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Wish]:
        """In order. Errors: DataError where the file went away."""
        stems: set[str] = set()
        try:
            with self.path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    if not raw.strip():
                        continue
                    wish = read(number, raw)
                    if wish.stem in stems:
                        fault = RecipeError(f"the name {wish.stem!r} is another line's; give each its own")
                        wish = Wish(number, f"{number:06d}", fault)
                    stems.add(wish.stem)
                    yield wish
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from None


def read(number: int, raw: bytes) -> Wish:
    """One line. A picture's name holds its number and a hash of it, so that a changed line is drawn anew."""
    stem = f"{number:06d}-{hashlib.sha256(raw.strip()).hexdigest()[:10]}"
    try:
        values = json.loads(raw)
        if not isinstance(values, dict):
            raise RecipeError(f"a recipe must be a JSON object, not {type(values).__name__}")
        name = values.pop(NAME_KEY, None)
        if name is not None:
            stem = _checked(name)
        return Wish(number, stem, Recipe.from_dict(values))
    except LaurError as error:
        return Wish(number, stem, error)
    except (ValueError, RecursionError, TypeError) as error:  # UnicodeDecodeError is a ValueError
        return Wish(number, stem, RecipeError(f"a recipe must be JSON; {' '.join(str(error).split())}"))


def _checked(name: object) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise RecipeError("name must be 1 to 200 letters")
    if name != Path(name).name or name.startswith(".") or any(ord(c) < 32 or c in '\\/:*?"<>|' for c in name):
        raise RecipeError(f"name {name!r} is no plain file name; leave out slashes, dots at the front and signs")
    return name
