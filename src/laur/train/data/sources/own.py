"""Pictures that a checkpoint draws itself, from the captions of a prepared set and noise keyed by their names.

What a style's teacher makes of them keeps what the model can draw, and how: an adapter that learns from such pictures
has the style alone to learn. As the noise of each is known, it can also learn which picture begins where
(`objective.accelerator` of `laur train style`). A consistency model adds fresh noise at each step, so the fewer steps,
the more of a picture follows from what it began with. What is predicted at an earlier step on the way (`until`) follows
from that step's latents alone, so an adapter can learn each step from what was painted over its own prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import DataError
from laur.train.data.picture import Drawn, unit
from laur.train.data.reader import TrainingSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from laur.core.checkpoint import Checkpoint
    from laur.pipeline.engine import Engine

KIND = "own"
TOGETHER = 8
"""Drawn in one batch."""
_SEEDS = 2**31


def seed_of(name: str) -> int:
    """Of the noise that a picture of this name begins with."""
    return int(unit(KIND, name) * _SEEDS)


def guidance_of(source: Mapping[str, Any]) -> float | None:
    """With which a teacher drew a set's pictures, so that each is the end of the path of its noise; None where it was
    drawn in few steps, or where something was painted over it."""
    found = source.get("guidance") if source.get("kind") == KIND else None
    return None if found is None else float(found)


def way_of(source: Mapping[str, Any]) -> tuple[tuple[int, ...], int] | None:
    """The timesteps of the whole way of which a set's pictures are the predictions at one step, and that step's number
    from 1, painted over or not; None for sets that are no such predictions."""
    found = _drawn(source)
    return None if found is None or "until" not in found else (tuple(found["timesteps"]), int(found["until"]))


def steps_of(source: Mapping[str, Any]) -> int | None:
    """In how many steps a set's pictures were drawn, as it was asked for: 0 where that was left to the model, None for
    what a teacher drew and for sets that are not of own pictures."""
    found = _drawn(source)
    return None if found is None or "guidance" in found else int(found.get("steps", 0))


def painting_of(source: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """What was made of a set's pictures, the last first: teacher, its code, trigger and seed of each painting."""
    beneath = source.get("beneath")
    below = painting_of(beneath) if isinstance(beneath, Mapping) else ()
    if "teacher" not in source:
        return below
    return (tuple(source.get(key) for key in ("teacher", "code", "trigger", "seed")), *below)


def model_of(source: Mapping[str, Any]) -> str | None:
    """`Checkpoint.key` of the model that drew a set's pictures, by what the set says of its source; None for others."""
    found = _drawn(source)
    return None if found is None else str(found.get("model", ""))


def _drawn(source: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What is said of own pictures, whatever was made of them since."""
    while source.get("kind") != KIND:
        beneath = source.get("beneath")
        if not isinstance(beneath, Mapping):
            return None
        source = beneath
    return source


@dataclass(frozen=True, slots=True)
class OwnPicture:
    """One of them; it holds its picture, since pictures are drawn in batches."""

    name: str
    caption: str
    pixels: NDArray[np.uint8]
    licence: str
    origin: str
    style: str = ""

    def draw(self, size: int) -> Drawn:
        """See Record."""
        del size
        from PIL import Image

        return Drawn(Image.fromarray(self.pixels), (self.caption,))


class Own:
    """The source: as many pictures as the set has captioned ones."""

    square = True

    def __init__(
        self,
        words: Path,
        model: str = "mini",
        *,
        size: int | None = None,
        limit: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        until: int | None = None,
    ) -> None:
        """`words`: a prepared set, of which captions and names are taken; `model` draws as it does by default, in its
        own few steps or in `steps`, `size` pixels a side (its own where None). With `guidance` (classifier-free, above
        1) it draws without its few-step adapter, as a teacher: then a picture is the end of the path of its noise, and
        distillation may go there at once. With `until` a picture is what was predicted at that step, counted from 1.
        Errors: DataError, those of loading.
        """
        if until is not None and until < 1:
            raise DataError(f"until is {until}; steps are counted from 1")
        if guidance is not None and not 1 < guidance <= 100:
            raise DataError(f"guidance is {guidance:g}; a teacher's lies above 1 and at most at 100")
        self._set = TrainingSet.open(words)
        self._model, self._size, self._steps, self._guidance, self._until = model, size, steps, guidance, until
        count = len(self._set)
        self._places = np.arange(count) if limit is None or limit >= count else np.arange(limit) * count // limit

    @cached_property
    def _engine(self) -> Engine:
        from laur.pipeline.engine import Engine

        return Engine(self._model)

    @cached_property
    def _info(self) -> Checkpoint:
        return self._engine.library.checkpoint(self._model)

    @cached_property
    def _how(self) -> dict[str, Any]:
        """How each is drawn, to the end."""
        side = self._size or self._info.native_size
        guided = {} if self._guidance is None else {"guidance": self._guidance, "adapters": ()}
        return {"width": side, "height": side, "steps": self._steps, **guided}

    @cached_property
    def _timesteps(self) -> tuple[int, ...]:
        """Of the whole way."""
        from laur.core.recipe import Recipe

        resolved = self._engine.resolve(Recipe(prompt="anything", seed=0, **self._how))
        if resolved.recipe.sampler != "lcm":
            raise DataError(
                f"{self._model} draws with {resolved.recipe.sampler}; only consistency models (lcm) predict a whole "
                "picture at each step, so leave until out"
            )
        (stage,) = resolved.plan.stages
        found = tuple(int(step.timestep) for step in stage.table.steps)
        if self._until is not None and self._until > len(found):
            raise DataError(
                f"until is {self._until}, but {self._model} draws in {len(found)} steps; give fewer, or --steps"
            )
        return found

    def describe(self) -> Mapping[str, Any]:
        """See Source."""
        told: dict[str, Any] = {
            "words": self._set.info.key,
            "pictures": len(self),
            "size": self._size or self._info.native_size,
        }
        if self._steps is not None:
            told["steps"] = self._steps
        if self._guidance is not None:
            told["guidance"] = self._guidance
        if self._until is not None:
            told |= {"until": self._until, "timesteps": list(self._timesteps)}
        return {"kind": KIND, "model": self._info.key, **told}

    def __len__(self) -> int:
        return len(self._places)

    def records(self, start: int, stop: int) -> Iterator[OwnPicture]:
        """See Source."""
        places = self._places[start:stop]
        for first in range(0, len(places), TOGETHER):
            yield from self._drawn(places[first : first + TOGETHER])

    def _drawn(self, places: NDArray[np.int64]) -> Iterator[OwnPicture]:
        from laur.core.recipe import Recipe
        from laur.train.conditions import plain_prompt

        names = self._set.names(places)
        captions = [_one(name, texts) for name, texts in zip(names, self._set.captions(places), strict=True)]
        how: dict[str, Any] = self._how
        if self._until is not None:  # the last of a few timesteps gives its prediction, and takes no noise
            how = {**how, "steps": None, "timesteps": self._timesteps[: self._until]}
        recipes = [
            Recipe(prompt=plain_prompt(caption), seed=seed_of(name), **how)
            for name, caption in zip(names, captions, strict=True)
        ]
        for name, caption, picture in zip(names, captions, self._engine.pictures(recipes), strict=True):
            yield OwnPicture(name, caption, np.asarray(picture.pixels), f"that of {self._info.name}", self._info.name)


def _one(name: str, captions: Sequence[str]) -> str:
    """The caption that is drawn: any of them, by the name."""
    return captions[int(unit("caption", name) * len(captions))]
