"""One evaluation from end to end: draw, extract features, score, measure. What is on disk already is not made again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import DataError, TrainingError
from laur.train.evaluate.gallery import Gallery
from laur.train.evaluate.measure import Column, Resamples, Tries, against, subsets, tries
from laur.train.evaluate.prompts import Prompt, candidates
from laur.train.evaluate.subjects import Plan, Subject, subjects
from laur.utils.metrics.agreement import psnr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from laur.core.checkpoint import Checkpoint
    from laur.pipeline.engine import Engine
    from laur.pipeline.scoring import Scorer
    from laur.train.data.reader import TrainingSet
    from laur.train.evaluate.features import FeatureNetwork

CHOICES = 32
"""Captions that the scorer chooses among; with few prompts, as many as there are."""
FEWEST = 8
"""Prompts below which nothing can be said."""


class Listener:
    """Is told how it goes. This one says nothing."""

    def phase(self, name: str, total: int) -> None:
        """Something begins that has so many parts."""

    def more(self, count: int) -> None:
        """So many parts are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to evaluate, and how closely."""

    plan: Plan
    prompts: Sequence[Prompt]
    tries: int = 1
    """Seeds of each prompt."""
    size: tuple[int, int] | None = None
    resamples: int = 1000
    level: float = 0.95


@dataclass(slots=True, kw_only=True)
class Study:
    """All that was measured, and what it was measured on."""

    wish: Wish
    teacher: Checkpoint
    student: Checkpoint
    subjects: tuple[Subject, ...]
    keys: Mapping[str, list[str]]
    """Of the pictures of each subject, by prompt."""
    gallery: Gallery
    network: str
    scorer: str = ""
    scorer_says: Mapping[str, str] = field(default_factory=dict[str, str])
    choices: int = 0
    columns: Mapping[str, Column] = field(default_factory=dict[str, Column])
    """By metric, against the teacher from other seeds."""
    subsets: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    """KID over random subsets, by subject."""
    likeness: Mapping[str, Column] = field(default_factory=dict[str, Column])
    """psnr and distance, against the teacher from the same noise."""
    tries: Tries | None = None
    data: Mapping[str, Column] = field(default_factory=dict[str, Column])
    """By metric, against the set's own pictures."""

    @property
    def measured(self) -> tuple[Subject, ...]:
        """All but the reference."""
        return tuple(subject for subject in self.subjects if subject.role != "reference")

    def of_role(self, role: str) -> Subject:
        """The first one."""
        return next(subject for subject in self.subjects if subject.role == role)


def evaluate(
    wish: Wish,
    folder: Path,
    engine: Engine,
    network: FeatureNetwork,
    *,
    scorer: Scorer | None = None,
    data: TrainingSet | None = None,
    listener: Listener | None = None,
) -> Study:
    """Errors: those of drawing; DataError, TrainingError, OutputError."""
    listener = listener or Listener()
    prompts = wish.prompts
    if len(prompts) < FEWEST:
        raise DataError(f"{len(prompts)} prompts are too few to measure anything; give at least {FEWEST}")
    student = engine.library.checkpoint(wish.plan.model)
    teacher = engine.library.checkpoint(wish.plan.teacher or wish.plan.model)
    rows = subjects(wish.plan, teacher, student)
    if wish.size is None and teacher.native_size != student.native_size:
        raise TrainingError(
            f"{student.name} draws {student.native_size} pixels a side and {teacher.name} {teacher.native_size}, which "
            f"cannot be compared; give both one size: --size {teacher.native_size}"
        )
    gallery = Gallery(folder, engine)
    keys = _draw(gallery, rows, wish, listener)
    study = Study(
        wish=wish,
        teacher=teacher,
        student=student,
        subjects=rows,
        keys=keys,
        gallery=gallery,
        network=network.name,
    )
    _measure(study, network, listener, data)
    if scorer is not None:
        _score(study, scorer, listener)
    return study


def _draw(gallery: Gallery, rows: Sequence[Subject], wish: Wish, listener: Listener) -> dict[str, list[str]]:
    wanted = {subject.name: subject.recipes(wish.prompts, wish.tries, wish.size) for subject in rows}
    for recipes in wanted.values():
        gallery.check(recipes[0])  # what a student cannot draw is said before the teacher draws for an hour
    found: dict[str, list[str]] = {}
    for name, recipes in wanted.items():
        listener.phase(name, len(recipes))
        found[name] = gallery.draw(recipes, listener.more)
    return found


def _measure(study: Study, network: FeatureNetwork, listener: Listener, data: TrainingSet | None) -> None:
    made: dict[str, NDArray[np.float32]] = {}
    listener.phase("features", len(study.subjects) * len(next(iter(study.keys.values()))))
    for name, keys in study.keys.items():
        made[name] = study.gallery.array(keys, network.key, lambda keys=keys: _features(study, keys, network, listener))
    resamples = Resamples.of(len(study.wish.prompts), study.wish.resamples)
    reference, teacher = study.of_role("reference").name, study.of_role("teacher").name
    listener.phase("intervals", 0)
    others = {name: rows for name, rows in made.items() if name != reference}
    study.columns = against(made[reference], others, resamples)
    study.subsets = {name: subsets(rows, made[reference]) for name, rows in others.items()}
    # of the teacher itself the other seeds stand here: how far another noise alone leads
    compared = {name: rows for name, rows in made.items() if name != teacher}
    gaps = {name: np.linalg.norm(rows.astype(np.float64) - made[teacher], axis=1) for name, rows in compared.items()}
    study.likeness = {
        "psnr": {name: resamples.mean(_psnr(study, name, teacher)) for name in compared},
        "distance": {name: resamples.mean(gap) for name, gap in gaps.items()},
    }
    if data is not None:
        study.data = against(_of_data(study, data, network), others, resamples)


def _features(study: Study, keys: list[str], network: FeatureNetwork, listener: Listener) -> NDArray[np.float32]:
    found: list[NDArray[np.float32]] = []
    for pixels in study.gallery.chunks(keys):
        found.append(network(pixels))
        listener.more(len(pixels))
    return np.concatenate(found)


def _psnr(study: Study, name: str, teacher: str) -> NDArray[np.float64]:
    pairs = zip(study.gallery.chunks(study.keys[name]), study.gallery.chunks(study.keys[teacher]), strict=True)
    return np.concatenate([psnr(x, y) for x, y in pairs])


def _of_data(study: Study, data: TrainingSet, network: FeatureNetwork) -> NDArray[np.float32]:
    """Features of the prompts' own pictures (P, d)."""
    from laur.train.evaluate.originals import originals

    places = [prompt.place for prompt in study.wish.prompts if prompt.place is not None]
    name = f"{data.info.key} {hashlib.sha256(repr(places).encode()).hexdigest()} {network.key}"

    def make() -> NDArray[Any]:
        return np.concatenate([network(pixels) for pixels in originals(data, places)])

    return study.gallery.array([], name, make)


def _score(study: Study, scorer: Scorer, listener: Listener) -> None:
    prompts = study.wish.prompts
    different = min(sum(other.concept != prompt.concept for other in prompts) for prompt in prompts)
    choices = min(CHOICES, different + 1)
    if choices < 2:
        raise DataError("all prompts are of one concept, so no caption can be wrong; leave the scorer out")
    table = candidates(prompts, choices)
    listener.phase("scores", len(study.subjects) * len(prompts))
    found: dict[str, NDArray[np.float32]] = {}
    for name, keys in study.keys.items():
        what = f"{scorer.key} {choices} {hashlib.sha256(repr([p.text for p in prompts]).encode()).hexdigest()}"
        found[name] = study.gallery.array(
            keys, what, lambda keys=keys: _scores(study, keys, scorer, table, listener=listener)
        )
    study.tries = tries(found, Resamples.of(len(prompts), study.wish.resamples))
    study.scorer, study.choices = scorer.name, choices
    study.scorer_says = getattr(scorer, "said", {})


def _scores(
    study: Study, keys: list[str], scorer: Scorer, table: NDArray[np.int64], *, listener: Listener
) -> NDArray[np.float32]:
    """(P · tries, choices), the own caption first."""
    prompts, each = study.wish.prompts, study.wish.tries
    found: list[NDArray[np.float32]] = []
    for number, row in enumerate(table):
        pixels = study.gallery.pictures(keys[number * each : (number + 1) * each])
        found.append(scorer.scores(pixels, [prompts[place].text for place in row]))
        listener.more(1)
    return np.concatenate(found)
