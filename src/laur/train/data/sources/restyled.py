"""A source whose pictures are rendered anew by a style's teacher, with captions that call the style by its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laur.train.data.picture import Drawn, Record, unit

if TYPE_CHECKING:
    from laur.style.teachers import Teacher
    from laur.train.data.picture import Source

SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class Repainted:
    """One record of the source beneath."""

    beneath: Record
    teacher: Teacher
    trigger: str
    seed: int | None = None

    @property
    def name(self) -> str:
        """As beneath."""
        return self.beneath.name

    @property
    def style(self) -> str:
        """The teacher's name."""
        return self.teacher.name

    @property
    def licence(self) -> str:
        """That of the picture which was rendered anew."""
        return self.beneath.licence

    @property
    def origin(self) -> str:
        """As beneath."""
        return self.beneath.origin

    def draw(self, size: int) -> Drawn:
        """See Record. The picture is brought to `size` first, since brushes have a size in pixels."""
        import numpy as np
        from PIL import Image

        drawn = self.beneath.draw(size)
        scale = size / min(drawn.image.size)
        shape = (max(1, round(drawn.image.width * scale)), max(1, round(drawn.image.height * scale)))
        picture = np.asarray(drawn.image.convert("RGB").resize(shape, Image.Resampling.LANCZOS))
        keyed = int(unit("teacher", self.teacher.name, self.name) * SEEDS)
        painted = self.teacher(picture, keyed if self.seed is None else self.seed)
        words = called(drawn.captions, self.beneath.style, self.trigger)
        return Drawn(Image.fromarray(painted), words)


class Restyled:
    """The source. `trigger` takes the place of the words by which captions call the former style; where it is empty,
    captions stay as they are, as those of own pictures should: other words would have drawn another picture.

    With a `seed` the teacher paints every picture with that one, so that what it leaves to chance (where the
    background's patches lie) is the same in all and can be learned from few.
    """

    def __init__(self, beneath: Source, teacher: Teacher, trigger: str, seed: int | None = None) -> None:
        self._beneath, self._teacher, self._trigger, self._seed = beneath, teacher, trigger, seed
        self.square = beneath.square

    def describe(self) -> Mapping[str, Any]:
        """See Source."""
        told: dict[str, Any] = {"teacher": self._teacher.name, "code": self._teacher.sha256, "trigger": self._trigger}
        if self._seed is not None:
            told["seed"] = self._seed
        return {"kind": "restyled", **told, "beneath": dict(self._beneath.describe())}

    def __len__(self) -> int:
        return len(self._beneath)

    def records(self, start: int, stop: int) -> Iterator[Repainted]:
        """See Source."""
        for record in self._beneath.records(start, stop):
            yield Repainted(record, self._teacher, self._trigger, self._seed)


def called(captions: tuple[str, ...], former: str, trigger: str) -> tuple[str, ...]:
    """Captions with the style's words at their end: plain ones, and one that still names the former style.

    That one teaches the adapter to overrule a style which the prompt names too. Without such words they stay.
    """
    if not trigger:
        return captions
    plain = [caption.removesuffix(f", {former}") if former else caption for caption in captions]
    kept = [f"{text}, {trigger}" for text in plain if not former or former not in text]
    return tuple(dict.fromkeys([*kept, f"{captions[0]}, {trigger}"])) if captions else ()
