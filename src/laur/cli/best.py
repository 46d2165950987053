"""`--best-of N`: of N seeds the one whose picture fits the prompt best, by a scorer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from laur.core.errors import NotFoundError

if TYPE_CHECKING:
    from laur.pipeline.engine import Engine
    from laur.pipeline.events import Ticket
    from laur.pipeline.scoring import Scorer
    from laur.render.picture import Picture


@dataclass(frozen=True, slots=True)
class Winner:
    """The best of a group, and what each of its seeds scored."""

    ticket: Ticket
    picture: Picture
    scores: dict[int, float]

    @property
    def line(self) -> str:
        """For people: the best first."""
        best, *others = sorted(self.scores.items(), key=lambda item: -item[1])
        rest = "".join(f", {seed} {score:.3f}" for seed, score in others)
        return f"kept seed {best[0]} ({best[1]:.3f}) of {len(self.scores)}{rest}"


@dataclass(slots=True)
class _Group:
    waiting: int
    entries: list[tuple[Ticket, Picture, float]] = field(default_factory=list["tuple[Ticket, Picture, float]"])


class Contest:
    """Pictures come in any order; each group has a winner as soon as its last one has come or failed."""

    def __init__(self, scorer: Scorer, of: int) -> None:
        """`of` pictures make a group: numbers 0 … of - 1 the first, and so on."""
        self._scorer, self._of = scorer, of
        self._groups: dict[int, _Group] = {}

    def enter(self, number: int, ticket: Ticket, picture: Picture) -> Winner | None:
        """Score a picture; its group's winner if it was the last."""
        scores = self._scorer.scores(picture.pixels[None], [picture.recipe.prompt])
        group = self._group(number)
        group.entries.append((ticket, picture, float(scores[0, 0])))
        return self._ended(group)

    def drop(self, number: int) -> Winner | None:
        """A picture of the group will not come."""
        return self._ended(self._group(number))

    def _group(self, number: int) -> _Group:
        return self._groups.setdefault(number // self._of, _Group(self._of))

    @staticmethod
    def _ended(group: _Group) -> Winner | None:
        group.waiting -= 1
        if group.waiting or not group.entries:
            return None
        # of equal scores the lowest seed, in whatever order they came
        ticket, picture, _ = min(group.entries, key=lambda entry: (-entry[2], entry[1].recipe.seed or 0))
        seeds = sorted((entry[1].recipe.seed or 0, entry[2]) for entry in group.entries)
        group.entries.clear()
        return Winner(ticket, picture, dict(seeds))


def judge(engine: Engine, model: str, prediction: str | None, scorer: str | None) -> Scorer:
    """The scorer of that name, or the one that knows the model's kind of picture. Errors: NotFoundError."""
    from laur.pipeline.scoring import default_scorer, find_scorer

    name = scorer or default_scorer(engine.library.checkpoint(model, prediction=prediction).family)
    if name is None:
        raise NotFoundError(
            f"--best-of needs a scorer that knows what {model} draws; give the folder of a CLIP model, or a "
            "registered name, with --scorer"
        )
    return find_scorer(name, engine.library.placement.device)
