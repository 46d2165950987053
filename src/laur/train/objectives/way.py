"""The way of an accelerator, step by step, with what a style's teacher made of its prediction at each.

Step k of a consistency model predicts a picture from latents that its last prediction was noised to. With the same
noise the adapted model should predict what was painted over that: so each step has a target of its own, where a
finished picture would be one of many that could have come of the first steps. The noise is that of the picture's seed,
as the engine draws it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from laur.core.errors import DataError
from laur.core.noise import Noise
from laur.train.data.sources import own

if TYPE_CHECKING:
    from laur.train.data.reader import TrainingSet


class Way:
    """The painted predictions of every step but the last, which are the run's own set."""

    def __init__(self, folders: Sequence[str]) -> None:
        """Prepared sets of the first step's predictions, the second's … (`laur data prepare own --until 1`, …).

        Errors: DataError where one is no such set, or where they do not follow each other.
        """
        from laur.train.data.reader import TrainingSet

        self._sets = [TrainingSet.open(Path(folder)) for folder in folders]
        ways = [own.way_of(data.info.source) for data in self._sets]
        for number, (data, way) in enumerate(zip(self._sets, ways, strict=True), 1):
            if way is None:
                raise DataError(
                    f"{data.folder} holds no predictions of one step; `laur data prepare own --until {number}` does"
                )
            if way[1] != number or way[0] != (ways[0] or way)[0] or len(way[0]) != len(folders) + 1:
                raise DataError(
                    f"{data.folder} holds step {way[1]} of {len(way[0])}, at {', '.join(map(str, way[0]))}; "
                    f"{len(folders)} earlier sets are steps 1 to {len(folders)} of one way of {len(folders) + 1}"
                )
        self.key = hashlib.sha256(" ".join(data.info.key for data in self._sets).encode()).hexdigest()
        """sha256 over those of the sets."""
        self.timesteps = torch.tensor((ways[0] or ((), 0))[0])
        """(K,) of the whole way, falling."""
        self._places = [dict(zip(_names(data), range(len(data)), strict=True)) for data in self._sets]

    def fits(self, data: TrainingSet) -> None:
        """Errors: DataError where that set's pictures are not the ends of these ways."""
        model = own.model_of(data.info.source)
        names = _names(data)
        for data_before, places in zip(self._sets, self._places, strict=True):
            if own.model_of(data_before.info.source) != model or data_before.info.buckets != data.info.buckets:
                raise DataError(f"{data_before.folder} and {data.folder} were not drawn by one model in one size")
            known = sum(name in places for name in names)
            if 2 * known < len(names):
                raise DataError(
                    f"only {known} of the {len(names)} pictures of {data.folder} are in {data_before.folder}; "
                    "prepare both from the same captions"
                )
            if own.painting_of(data_before.info.source) != own.painting_of(data.info.source):
                raise DataError(
                    f"{data_before.folder} and {data.folder} were not painted alike: teacher, its code, trigger or "
                    "seed differ; prepare both anew with the same"
                )
        if not self._ends_in(data):
            raise DataError(
                f"{data.folder} is not where the way of {self._sets[0].folder} ends; draw it along the same steps: "
                f"`laur data prepare own --steps {len(self.timesteps)} --until {len(self.timesteps)}`"
            )

    def _ends_in(self, data: TrainingSet) -> bool:
        """Whether that set's pictures are the last predictions, or were drawn to their end in as many steps."""
        way, first = own.way_of(data.info.source), self._sets[0].info.source
        if way is not None:
            return way == (tuple(self.timesteps.tolist()), len(self.timesteps))
        steps = own.steps_of(data.info.source)
        return steps is not None and steps == own.steps_of(first)

    def knows(self, names: Sequence[str]) -> Tensor:
        """(B,) bool: which pictures every earlier set has; one may have been blank at its first step."""
        return torch.tensor([all(name in places for places in self._places) for name in names])

    def noise(self, names: Sequence[str], number: int, like: Tensor) -> Tensor:
        """(B, C, h, w) what the engine adds to a prediction before step `number`, counted from 0."""
        shape = (like.shape[1], like.shape[2], like.shape[3])
        return torch.stack([Noise(own.seed_of(name), shape).draw(0, number) for name in names]).to(like)

    def painted(self, names: Sequence[str], number: int, last: Tensor) -> Tensor:
        """(B, C, h, w) what was painted over the prediction of step `number`; `last` over the final one."""
        if number == len(self._sets):
            return last
        return torch.stack([self._latents(number, name) for name in names]).to(last)

    def _latents(self, number: int, name: str) -> Tensor:
        return self._sets[number].latents(np.array([self._places[number][name]]))[0]


def _names(data: TrainingSet) -> tuple[str, ...]:
    return data.names(np.arange(len(data)))
