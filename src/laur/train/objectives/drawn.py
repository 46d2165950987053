"""Latents that a checkpoint draws: what its decoder meets, where its encoder's own latents are cleaner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from laur.train.data.reader import TrainingSet
from laur.train.data.sources.own import TOGETHER, seed_of
from laur.train.objectives.crops import cropped

if TYPE_CHECKING:
    from torch import Tensor

    from laur.core.checkpoint import Checkpoint
    from laur.pipeline.engine import Engine
    from laur.train.draws import Draws


class DrawnLatents:
    """Drawn as a checkpoint draws by default (size, steps, accelerator) from a set's captions, in its order."""

    def __init__(self, checkpoint: Checkpoint, words: Path, count: int, styles: tuple[str, ...] = ()) -> None:
        """`count` of them at most, every other one in one of `styles` in turn. Errors: DataError, those of loading."""
        from laur.pipeline.engine import Engine

        self._set = TrainingSet.open(words)
        self.key = f"{self._set.info.key} {count} {' '.join(styles)}".strip()
        found = len(self._set) if count >= len(self._set) else count
        places = np.arange(found) * len(self._set) // found
        engine = Engine(checkpoint.name)
        latents: list[Tensor] = []
        for first in range(0, found, TOGETHER):
            latents += self._some(engine, places[first : first + TOGETHER], first, styles)
        # as the autoencoder knows them; (N, C, h, w)
        self._latents = torch.stack(latents) / checkpoint.latent_scale + checkpoint.latent_shift

    def __len__(self) -> int:
        return len(self._latents)

    def batch(self, draws: Draws, side: int) -> Tensor:
        """(B, C, side, side) float32, cut out at drawn places; whole latents where they are no larger. One for each
        of the draws' keys."""
        picked = self._latents[draws.integers("drawn latent", 0, len(self)).cpu()].to(draws.device)
        return cropped(picked, draws, side, "drawn")

    def _some(self, engine: Engine, places: np.ndarray, first: int, styles: tuple[str, ...]) -> list[Tensor]:
        from laur.core.recipe import Recipe
        from laur.pipeline.events import Done, Failed
        from laur.train.conditions import plain_prompt

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
