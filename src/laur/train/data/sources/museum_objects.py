"""Which objects of a museum may be learned from: the Metropolitan Museum's API, by its documentation at
https://metmuseum.github.io, and a list on disk so that nothing is asked for twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from laur.core.errors import DataError, OutputError
from laur.train.data.sources.web import Refused, Web
from laur.utils.files import atomic_write, locked

MET = "https://collectionapi.metmuseum.org/public/collection/v1"
FILTERS = {
    "artistOrCulture",
    "dateBegin",
    "dateEnd",
    "departmentId",
    "geoLocation",
    "isHighlight",
    "isOnView",
    "medium",
    "tags",
    "title",
}
"""What a search may ask for beside its words."""
MOST_JSON = 64 << 20
NOT_OPEN, NO_PICTURE, GONE = "not in the public domain", "without a picture", "not to be had"


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """What is kept of an object's record."""

    number: int
    picture: str
    """Address of the whole picture."""
    small: str
    """Address of one some 600 pixels wide; empty where there is none."""
    title: str = ""
    artist: str = ""
    medium: str = ""
    date: str = ""
    period: str = ""
    kind: str = ""
    """Painting, vase, armour …"""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for."""

    base: str
    words: str
    filters: Mapping[str, str]

    @property
    def key(self) -> str:
        """Of its list."""
        told = json.dumps([self.base, self.words, dict(self.filters)], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


class Objects:
    """The list: one line for each object that was asked about, in the order of the search."""

    def __init__(self, question: Question, folder: Path, web: Web) -> None:
        """`folder` is made if it is not there."""
        self._question, self._folder, self._web = question, folder, web
        self.passed: Counter[str] = Counter()
        """Why others were passed over, and how often."""

    def take(self, limit: int, report: Callable[[int, int], None]) -> list[Object]:
        """The first `limit` that are in the public domain and have a picture. `report` is told how many were found, and
        looked at. Errors: DataError, OutputError, UnavailableError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked(self._folder / ".lock"):
                return self._take(limit, report)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._folder}: {error.strerror or error}; set LAUR_CACHE elsewhere"
            ) from None

    def _take(self, limit: int, report: Callable[[int, int], None]) -> list[Object]:
        found: list[Object] = []
        numbers, known = self._numbers(), self._known()
        with (self._folder / "objects.jsonl").open("a", encoding="utf-8") as file:
            for looked, number in enumerate(numbers, 1):
                if number not in known:
                    known[number] = self._ask(number)
                    file.write(json.dumps({"number": number, "says": known[number]}, ensure_ascii=False) + "\n")
                    file.flush()
                self._sort(known[number], found)
                report(len(found), looked)
                if len(found) == limit:
                    break
        return found

    def _sort(self, says: str | dict[str, Any], found: list[Object]) -> None:
        if isinstance(says, str):
            self.passed[says] += 1
        else:
            says["tags"] = tuple(says["tags"])
            found.append(Object(**says))

    def _numbers(self) -> list[int]:
        """Of the objects that the search finds; kept, so that a museum's new objects do not change a set half made."""
        path = self._folder / "search.json"
        if path.exists():
            return json.loads(path.read_bytes())
        query = {"hasImages": "true", **self._question.filters, "q": self._question.words}
        answer = self._json("search", query)
        numbers = answer.get("objectIDs") or []
        if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
            raise DataError(f"{self._question.base} does not answer a search as the Met's API does; see --from")
        if not numbers:
            raise DataError(f"the museum has nothing with pictures for {self._question.words!r}; try other words")
        numbers = list(dict.fromkeys(numbers))
        atomic_write(path, json.dumps(numbers).encode())
        return numbers

    def _known(self) -> dict[int, Any]:
        """What is on the list; a last line that was cut off is left out."""
        path = self._folder / "objects.jsonl"
        found: dict[int, Any] = {}
        if not path.exists():
            return found
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                values = json.loads(line)
                found[values["number"]] = values["says"]
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n"):
                del found[values["number"]]
                break
            whole += len(line)
        with path.open("r+b") as file:
            file.truncate(whole)
        return found

    def _ask(self, number: int) -> Any:
        try:
            return _read(number, self._json(f"objects/{number}", {}))
        except Refused:
            return GONE

    def _json(self, path: str, query: Mapping[str, str]) -> Mapping[str, Any]:
        address = f"{self._question.base}/{path}"
        try:
            content, _ = self._web.get(address, query, most=MOST_JSON)
            values = json.loads(content)
        except Refused as why:
            if path != "search":
                raise
            raise DataError(f"{address}: {why}; it is no address of the Met's API") from None
        except ValueError:
            values = None
        if isinstance(values, dict):
            return values
        if path != "search":
            raise Refused("its record cannot be read")
        raise DataError(f"{address} does not answer with JSON; it is no address of the Met's API")


def _read(number: int, values: Mapping[str, Any]) -> Any:
    """What is kept, or why the object is passed over. Only what is said to be in the public domain is open (CC0)."""
    if values.get("isPublicDomain") is not True:
        return NOT_OPEN
    picture, small = _text(values, "primaryImage"), _text(values, "primaryImageSmall")
    if not picture and not small:
        return NO_PICTURE
    tags = values.get("tags") or []
    kept = Object(
        number=number,
        picture=picture or small,
        small=small,
        title=_text(values, "title"),
        artist=_text(values, "artistDisplayName"),
        medium=_text(values, "medium"),
        date=_text(values, "objectDate"),
        period=_text(values, "period") or _text(values, "culture"),
        kind=_text(values, "objectName") or _text(values, "classification"),
        tags=tuple(_text(tag, "term") for tag in tags if isinstance(tag, dict) and _text(tag, "term")),
    )
    return asdict(kept)


def _text(values: Mapping[str, Any], key: str) -> str:
    found = values.get(key)
    return " ".join(found.split()) if isinstance(found, str) else ""
