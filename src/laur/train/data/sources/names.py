"""What things are called: names and synonyms of emoji, by code point or by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laur.core.errors import DataError
from laur.train.data.sources.icon_sets import CLDR, EMOJIBASE, EMOJILIB
from laur.train.data.sources.npm import Packages

_SHORT_WORDS = ("of", "on", "in", "no", "up", "ok", "to", "tv")
_SHORTEST_WORD, _LONGEST_WORD = 3, 16


@dataclass(frozen=True, slots=True)
class Concept:
    """One emoji's words."""

    name: str
    tags: tuple[str, ...]


class Names:
    """The table. Some two thousand concepts, a few megabytes."""

    def __init__(self, packages: Packages) -> None:
        """Fetch and read it. Errors: DataError, OutputError, UnavailableError."""
        base = packages.folder(EMOJIBASE) / "en" / "data.json"
        cldr = packages.folder(CLDR) / "annotations" / "en" / "annotations.json"
        words: dict[str, list[str]] = read_json(packages.folder(EMOJILIB) / "dist" / "emoji-en-US.json")
        said: dict[str, Any] = read_json(cldr)["annotations"]["annotations"]
        others = {code_of(emoji): tags for emoji, tags in words.items()}
        synonyms = {code_of(emoji): values.get("default", []) for emoji, values in said.items()}
        self._codes: dict[str, Concept] = {}
        self._names: dict[str, Concept] = {}
        self._words: set[str] = set(_SHORT_WORDS)
        for entry in read_json(base):
            code = plain_code(entry["hexcode"])
            tags = [*entry.get("tags", ()), *synonyms.get(code, ()), *others.get(code, ())]
            concept = Concept(entry["label"], _distinct(entry["label"], tags))
            self._codes[code] = concept
            said_of_it = " ".join((concept.name, *concept.tags)).lower().replace("’", "").replace("'", "")
            self._words.update(word for word in re.findall("[a-z]+", said_of_it) if len(word) >= _SHORTEST_WORD)
            self._names.setdefault(_squeezed(entry["label"]), concept)
            for alias in others.get(code, ())[:1]:  # emojilib's first word is the emoji's older name
                self._names.setdefault(_squeezed(alias), concept)

    def of_code(self, code: str) -> Concept | None:
        """By code points in hexadecimal, "1f600" or "1f468-200d-1f373"."""
        return self._codes.get(plain_code(code))

    def of_name(self, name: str) -> Concept | None:
        """By name, whatever its case and spacing."""
        return self._names.get(_squeezed(name))

    def split(self, name: str) -> str:
        """A name whose words run together, taken apart into the fewest known words; empty where it cannot be."""
        best: list[tuple[str, ...] | None] = [()]
        for stop in range(1, len(name) + 1):
            ways = [
                (*before, name[start:stop])
                for start in range(max(0, stop - _LONGEST_WORD), stop)
                if (before := best[start]) is not None and self._is_word(name[start:stop])
            ]
            best.append(min(ways, key=len, default=None))
        return " ".join(best[-1] or ())

    def _is_word(self, text: str) -> bool:
        return text in self._words or text.isdigit()


def read_json(path: Path) -> Any:
    """A package's file. Errors: DataError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise DataError(f"{path} is damaged; remove its package and get it again") from None


def plain_code(code: str) -> str:
    """Lower case, without the mark that asks for colour (FE0F), which some leave out."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def code_of(emoji: str) -> str:
    """A character's, or a sequence's."""
    return plain_code("-".join(f"{ord(character):04x}" for character in emoji))


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _distinct(label: str, tags: Iterable[str]) -> tuple[str, ...]:
    plain = (tag.replace("_", " ").strip().lower() for tag in tags)
    return tuple(dict.fromkeys(tag for tag in plain if tag and tag != label.lower()))
