"""The records of a source whose concepts are held out for measuring, or the others: no concept lies on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from laur.train.evaluate.prompts import HELD_OUT, concept, fold

if TYPE_CHECKING:
    from laur.train.data.picture import Record, Source


class Fold:
    """The source."""

    def __init__(self, beneath: Source, limit: int, *, held_out: bool) -> None:
        """At most `limit`, spread evenly over those of the side."""
        self._beneath, self.square = beneath, beneath.square
        names = [record.name for record in beneath.records(0, len(beneath))]
        places = [place for place, name in enumerate(names) if (fold(concept(name)) == HELD_OUT) is held_out]
        self._places = [places[i * len(places) // limit] for i in range(limit)] if limit < len(places) else places
        self._held_out = held_out

    def describe(self) -> Mapping[str, Any]:
        """See Source."""
        told = {"held_out": self._held_out, "pictures": len(self)}
        return {"kind": "fold", **told, "beneath": dict(self._beneath.describe())}

    def __len__(self) -> int:
        return len(self._places)

    def records(self, start: int, stop: int) -> Iterator[Record]:
        """See Source."""
        for place in self._places[start:stop]:
            yield from self._beneath.records(place, place + 1)
