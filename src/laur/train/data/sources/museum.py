"""Pictures from the Metropolitan Museum of Art's open-access API: only what it says is in the public domain (CC0)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import DataError
from laur.core.places import cache_folder
from laur.train.data import canvas
from laur.train.data.picture import Drawn, Skip
from laur.train.data.sources.museum_objects import FILTERS, MET, Object, Objects, Question
from laur.train.data.sources.web import Refused, Web
from laur.utils.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

LICENCE = "CC0-1.0"
STYLE = "museum"
PER_SECOND = 8.0
"""Requests; the museum asks for 80 at most."""
MOST_PICTURE = 64 << 20
"""Bytes of one file."""
SMALL_SIDE = 512
"""Up to this size of a set the museum's small pictures (some 600 pixels wide) are large enough."""
SMALLEST = 64
"""Pixels a side below which a picture is a stamp or a mistake."""


@dataclass(frozen=True, slots=True)
class Work:
    """One object's picture."""

    name: str
    object: Object
    folder: Path
    web: Web
    style: str = STYLE
    licence: str = LICENCE
    origin: str = "The Metropolitan Museum of Art"

    def draw(self, size: int) -> Drawn:
        """See Record. Raises UnavailableError too, where the museum cannot be reached."""
        image = self._image(size)
        if min(image.size) < SMALLEST:
            raise Skip(f"{image.size[0]}x{image.size[1]} is too small; {SMALLEST} pixels a side are the least")
        return Drawn(canvas.not_blank(canvas.on_white(image)), captions_of(self.object))

    def _image(self, size: int) -> Image:
        address = self.object.small if self.object.small and size <= SMALL_SIDE else self.object.picture
        path = self.folder / hashlib.sha256(address.encode()).hexdigest()[:24]
        if path.exists():
            return canvas.read_picture(path.read_bytes())
        try:
            content, kind = self.web.get(address, most=MOST_PICTURE)
        except Refused as why:
            raise Skip(f"cannot be fetched: {why}") from None
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise Skip(f"no picture: the server sends {kind or 'something without a type'}")
        image = canvas.read_picture(content)  # only what can be read is kept
        atomic_write(path, content)
        return image


class Museum:
    """The source."""

    square = False

    def __init__(
        self,
        words: str,
        *,
        limit: int,
        filters: Mapping[str, str] | None = None,
        base: str | None = None,
        web: Web | None = None,
        report: Callable[[int, int], None] = lambda _found, _looked: None,
    ) -> None:
        """`words` to search for; `filters` as the API has them; `limit` pictures. `base` is the API's address.

        Errors: DataError, OutputError, UnavailableError.
        """
        if not words.strip():
            raise DataError("a museum needs words to search for; give --query")
        if unknown := sorted(set(filters or {}) - FILTERS):
            raise DataError(f"the museum knows no filter {unknown[0]!r}; known are {', '.join(sorted(FILTERS))}")
        question = Question((base or MET).rstrip("/"), " ".join(words.split()), filters or {})
        self._question, self._limit = question, limit
        self._web = web or Web(PER_SECOND)
        self._folder = cache_folder() / "museum" / question.key
        objects = Objects(question, self._folder, self._web)
        self._found = objects.take(limit, report)
        self.passed = dict(objects.passed)
        """Why objects were passed over, and how many."""
        if not self._found:
            reasons = ", ".join(f"{count} {why}" for why, count in objects.passed.most_common())
            raise DataError(f"nothing that {question.words!r} finds may be learned from: {reasons}; try other words")
        (self._folder / "pictures").mkdir(exist_ok=True)

    def describe(self) -> Mapping[str, Any]:
        """See Source."""
        numbers = ",".join(str(one.number) for one in self._found)
        return {
            "kind": "museum",
            "base": self._question.base,
            "query": self._question.words,
            "filters": dict(self._question.filters),
            "limit": self._limit,
            "objects": hashlib.sha256(numbers.encode()).hexdigest(),
            "passed over": self.passed,
        }

    def __len__(self) -> int:
        return len(self._found)

    def records(self, start: int, stop: int) -> Iterator[Work]:
        """See Source."""
        for one in self._found[start:stop]:
            yield Work(f"{one.number} {one.title}".strip(), one, self._folder / "pictures", self._web)


def captions_of(one: Object) -> tuple[str, ...]:
    """Title, artist, medium, period and tags, from the shortest to all of it; empty where nothing is said."""
    title = one.title
    kind = "" if one.kind.lower() == title.lower() else one.kind.lower()
    by = f" by {one.artist}" if one.artist else ""
    what = ", ".join(part for part in (kind, one.medium.lower()) if part)
    when = ", ".join(dict.fromkeys(part for part in (one.period, one.date) if part))
    tags = ", ".join(tag.lower() for tag in one.tags[:6])
    subject = tags or title
    found = (
        title,
        f"{title}{by}" if title else "",
        f"{kind or 'artwork'} of {subject}" if tags or (kind and subject) else "",
        ", ".join(part for part in (f"{title}{by}" if title else "", what, when, tags) if part),
    )
    return tuple(dict.fromkeys(caption for caption in found if caption))
