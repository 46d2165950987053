"""How much of a style, and of what the prompt says, is left in few steps: drawn, scored and measured style by style.

Each style is drawn in rows from the same prompts and seeds:

    alone       the style's adapter without any acceleration, in many steps and with guidance: what there is to keep
    few         the same style over the accelerator in few steps
    balanced    as few, with the weights that `balance="style"` gives
    no style    few steps without the style: where the style score begins

Pictures and scores lie in the folder of a Gallery, so that what was drawn once is not drawn again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import DataError
from laur.core.recipe import AdapterRef, Recipe
from laur.style.cards import card
from laur.style.lookup import form_of
from laur.train.evaluate.gallery import Gallery
from laur.train.evaluate.kept import UNREAD, WEAK, Kept, Scores, above_others, found_among, kept, mean, together
from laur.train.evaluate.run import FEWEST, Listener

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from laur.core.checkpoint import Checkpoint
    from laur.pipeline.engine import Engine
    from laur.pipeline.scoring import Scorer
    from laur.train.evaluate.prompts import Prompt
    from laur.train.evaluate.style_classifier import StyleClassifier

ALONE, FEW, BALANCED, BARE = "alone", "few", "balanced", "no style"
FIRST_SEED = 4000
TRY = 100_000
"""How far the seeds of a prompt's tries lie apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionWish:
    """Which styles, and how they are drawn."""

    styles: Sequence[str]
    prompts: Sequence[Prompt]
    """What is drawn: captions that name no style."""
    pool: Sequence[Prompt]
    """Captions that the right one is found among; those drawn may be in it."""
    model: str = "mini"
    steps: int = 4
    teacher_steps: int | None = None
    """None takes the checkpoint's own."""
    teacher_guidance: float | None = None
    tries: int = 1
    first_seed: int = FIRST_SEED
    balanced: bool = True
    refs: Mapping[str, AdapterRef] = field(default_factory=dict[str, AdapterRef])
    """How styles are weighed in the row `few`, where not as their cards say."""
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of the recipes in few steps, beside prompt, seed and steps: another accelerator, another sampler."""
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleRetention:
    """One style, measured."""

    name: str
    keys: Mapping[str, list[str]]
    """Pictures by row."""
    scores: Mapping[str, Scores]
    kept: Mapping[str, Kept]
    """Of `few` and `balanced`, against `alone`."""
    adapters: Mapping[str, list[dict[str, Any]]]
    """As recorded in the recipes, by row: the weights that were used."""
    prompts: int

    @property
    def weak(self) -> bool:
        """Whether the style alone is hardly seen by the classifier."""
        return float(self.scores[ALONE].style.mean()) < WEAK

    @property
    def unread(self) -> bool:
        """Whether the scorer hardly knows the captions of the style alone, so that a ratio says nothing."""
        return float(self.scores[ALONE].caption.mean()) < UNREAD

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        rows = {
            name: {
                "style": mean(scores.style, self.prompts).to_dict(),
                "caption": mean(scores.caption, self.prompts).to_dict(),
                "found": mean(scores.found, self.prompts).to_dict(),
                "adapters": self.adapters[name],
            }
            for name, scores in self.scores.items()
        }
        kept = {name: found.to_dict() for name, found in self.kept.items()}
        return {"name": self.name, "weak": self.weak, "unread": self.unread, "rows": rows, "kept": kept}


def retention(
    wish: RetentionWish,
    folder: Path,
    engine: Engine,
    scorer: Scorer,
    classifier: StyleClassifier,
    *,
    listener: Listener | None = None,
) -> list[StyleRetention]:
    """Errors: those of drawing; NotFoundError for a style without a card or file; DataError for too few prompts."""
    if len(wish.prompts) < FEWEST:
        raise DataError(f"{len(wish.prompts)} prompts are too few to measure anything; give at least {FEWEST}")
    for name in wish.styles:
        classifier.column(card(name).teacher)
    judge = _Judge(wish, Gallery(folder, engine), engine, scorer, classifier, listener=listener or Listener())
    bare = judge.drawn(_recipes(wish, {**wish.fields, "steps": wish.steps}), BARE)
    return [judge.style(name, bare) for name in wish.styles]


def all_styles(found: Sequence[StyleRetention]) -> dict[str, Any]:
    """What is kept on average over the styles, with intervals: a dictionary by row."""
    prompts = found[0].prompts
    rows = [name for name in found[0].kept if all(name in one.kept for one in found)]
    joined = {row: together({one.name: one.scores[row] for one in found}) for row in (ALONE, *rows)}
    return {row: kept(joined[row], joined[ALONE], prompts).to_dict() for row in rows}


def rows_of(wish: RetentionWish, name: str, checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Fields of each row's recipes, but for `no style`."""
    weight = form_of(name, checkpoint.family.value).weight
    alone = {
        "adapters": (AdapterRef(name=name, weight=weight),),
        "sampler": checkpoint.defaults.sampler,
        "steps": wish.teacher_steps or checkpoint.defaults.steps,
        "guidance": wish.teacher_guidance or checkpoint.defaults.guidance,
    }
    few = {**wish.fields, "steps": wish.steps, "style": name}
    weighed = {**few, "adapters": (wish.refs[name],)} if name in wish.refs else few
    found = {ALONE: alone, FEW: weighed}
    return {**found, BALANCED: {**few, "balance": "style"}} if wish.balanced else found


def _recipes(wish: RetentionWish, fields: Mapping[str, Any]) -> list[Recipe]:
    width, height = wish.size or (None, None)
    return [
        Recipe(prompt=prompt.text, seed=wish.first_seed + number + TRY * again, width=width, height=height, **fields)
        for number, prompt in enumerate(wish.prompts)
        for again in range(wish.tries)
    ]


class _Judge:
    """Draws and scores, and keeps both."""

    def __init__(
        self,
        wish: RetentionWish,
        gallery: Gallery,
        engine: Engine,
        scorer: Scorer,
        classifier: StyleClassifier,
        *,
        listener: Listener,
    ) -> None:
        self._wish, self._gallery, self._engine = wish, gallery, engine
        self._scorer, self._classifier, self._listener = scorer, classifier, listener
        texts = {prompt.text: prompt for prompt in (*wish.prompts, *wish.pool)}
        self._pool = list(texts.values())
        self._texts = list(texts)

    def drawn(self, recipes: list[Recipe], what: str) -> list[str]:
        """Keys of the pictures."""
        self._listener.phase(what, len(recipes))
        return self._gallery.draw(recipes, self._listener.more)

    def style(self, name: str, bare: list[str]) -> StyleRetention:
        """All rows of one style."""
        wish = self._wish
        checkpoint = self._engine.library.checkpoint(wish.model)
        keys: dict[str, list[str]] = {}
        adapters: dict[str, list[dict[str, Any]]] = {BARE: []}
        for row, fields in rows_of(wish, name, checkpoint).items():
            recipes = [recipe.replace(checkpoint=wish.model) for recipe in _recipes(wish, fields)]
            filled = self._engine.resolve(recipes[0]).recipe
            adapters[row] = [ref.to_dict() for ref in filled.adapters or ()]
            keys[row] = self.drawn(recipes, f"{name}, {row}")
        keys[BARE] = bare
        column = self._classifier.column(card(name).teacher)
        scores = {row: self._scored(row_keys, column) for row, row_keys in keys.items()}
        found = {row: kept(scores[row], scores[ALONE], len(wish.prompts)) for row in keys if row in {FEW, BALANCED}}
        return StyleRetention(
            name=name, keys=keys, scores=scores, kept=found, adapters=adapters, prompts=len(wish.prompts)
        )

    def _scored(self, keys: list[str], column: int) -> Scores:
        captions = hashlib.sha256(json.dumps(self._texts).encode()).hexdigest()
        styles = self._gallery.array(keys, f"style {self._classifier.key}", lambda: self._styles(keys))
        table = self._gallery.array(keys, f"pool {self._scorer.key} {captions}", lambda: self._captions(keys))
        owners = [prompt for prompt in self._wish.prompts for _ in range(self._wish.tries)]
        own = [self._texts.index(prompt.text) for prompt in owners]
        rivals = [
            [place for place, other in enumerate(self._pool) if other.concept != prompt.concept] for prompt in owners
        ]
        return Scores(
            style=styles[:, column], caption=above_others(table, own, rivals), found=found_among(table, own, rivals)
        )

    def _styles(self, keys: list[str]) -> NDArray[np.float64]:
        return np.concatenate([self._classifier.probabilities(pixels) for pixels in self._gallery.chunks(keys)])

    def _captions(self, keys: list[str]) -> NDArray[np.float32]:
        return np.concatenate([self._scorer.scores(pixels, self._texts) for pixels in self._gallery.chunks(keys)])
