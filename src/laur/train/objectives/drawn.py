"""Latents that a checkpoint draws: what its decoder meets, where its encoder's own latents are cleaner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laur.core.errors import TrainingError
from laur.train.data.reader import TrainingSet
from laur.train.data.sources.own import TOGETHER, seed_of
from laur.train.objectives.crops import cropped

if TYPE_CHECKING:
    from torch import Tensor

    from laur.core.checkpoint import Checkpoint
    from laur.pipeline.engine import Engine
    from laur.train.draws import Draws


class DrawnLatents:
    """Drawn as a checkpoint draws by default (size, steps, accelerator) from a set's captions, in its order, when they
    are first asked for; a state holds them, so that a run that goes on does not draw them again."""

    def __init__(self, checkpoint: Checkpoint, words: Path, count: int, styles: tuple[str, ...] = ()) -> None:
        """`count` of them at most, every other one in one of `styles` in turn. Errors: DataError."""
        self._set = TrainingSet.open(words)
        self.key = f"{self._set.info.key} {count} {' '.join(styles)}".strip()
        self._checkpoint, self._styles = checkpoint, styles
        self._places, self._most = np.arange(len(self._set)), count
        self._latents: Tensor | None = None

    def __len__(self) -> int:
        return min(self._most, len(self._places))

    def hold_out(self) -> None:
        """Leave the captions of the fold of concepts for measuring out. Errors: TrainingError where none is left."""
        from laur.train.evaluate.prompts import places_held_out

        self._places = np.flatnonzero(~places_held_out(self._set))
        if not len(self._places):
            raise TrainingError(f"all captions of {self._set.folder} are held out; leave data.hold_out out")

    def latents(self) -> Tensor:
        """(N, C, h, w) float32 as the autoencoder knows them. Errors: those of loading and drawing."""
        if self._latents is None:
            self._latents = self._draw()
        return self._latents

    def batch(self, draws: Draws, side: int) -> Tensor:
        """(B, C, side, side) float32, cut out at drawn places; whole latents where they are no larger. One for each
        of the draws' keys."""
        picked = self.latents()[draws.integers("drawn latent", 0, len(self)).cpu()].to(draws.device)
        return cropped(picked, draws, side, "drawn")

    def state_dict(self) -> dict[str, Any]:
        """What has been drawn."""
        return {} if self._latents is None else {"latents": self._latents}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What had been drawn; a state from before anything was holds nothing."""
        self._latents = state.get("latents", self._latents)

    def _draw(self) -> Tensor:
        from laur.pipeline.engine import Engine

        places = self._places[np.arange(len(self)) * len(self._places) // len(self)]
        engine = Engine(self._checkpoint.name)
        latents: list[Tensor] = []
        for first in range(0, len(self), TOGETHER):
            latents += self._some(engine, places[first : first + TOGETHER], first)
        return torch.stack(latents) / self._checkpoint.latent_scale + self._checkpoint.latent_shift

    def _some(self, engine: Engine, places: np.ndarray, first: int) -> list[Tensor]:
        from laur.core.recipe import Recipe
        from laur.pipeline.events import Done, Failed
        from laur.train.conditions import plain_prompt

        styles = self._styles
        recipes = [
            Recipe(
                prompt=plain_prompt(captions[-1]),
                seed=seed_of(name),
                style=styles[(first + i) // 2 % len(styles)] if styles and (first + i) % 2 else None,
            )
            for i, (name, captions) in enumerate(zip(self._set.names(places), self._set.captions(places), strict=True))
        ]
        found: dict[int, Tensor] = {}
        for event in engine.stream(recipes):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done) and event.latent is not None:
                found[event.ticket.number] = event.latent.float().cpu()
        return [found[number] for number in sorted(found)]
