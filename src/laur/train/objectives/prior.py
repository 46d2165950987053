"""Prior preservation: pictures in no such style, learned beside the style's own (DreamBooth, arXiv 2208.12242, 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from laur.core.errors import TrainingError
from laur.train.batch import Batch

if TYPE_CHECKING:
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.draws import Draws


class Prior:
    """A second prepared set, from which each sample of a batch draws a companion."""

    def __init__(self, folder: str, loaded: LoadedCheckpoint, device: torch.device) -> None:
        """Errors: DataError."""
        from laur.train.conditions import Conditioner
        from laur.train.data.reader import TrainingSet

        self._set = TrainingSet.open(Path(folder))
        self.key = self._set.info.key
        self._places = np.arange(len(self._set))
        if not len(self._places):
            raise TrainingError(f"the prior set {folder} holds no pictures; prepare it from a folder that does")
        self._conditioner = Conditioner(loaded, self._set, 0.0, device)
        self._device = device

    def hold_out(self) -> None:
        """Leave the fold of concepts for measuring out. Errors: TrainingError where nothing is left."""
        from laur.train.evaluate.prompts import places_held_out

        self._places = np.flatnonzero(~places_held_out(self._set))
        if not len(self._places):
            raise TrainingError(
                f"all pictures of the prior set {self._set.folder} are held out; leave data.hold_out out"
            )

    def batch(self, batch: Batch, draws: Draws) -> Batch:
        """As many samples of one shape, which the update's number draws as often as there are pictures of it; the
        pictures are drawn by the keys of the batch's own."""
        shapes = self._set.bucket[self._places]
        shape = np.random.default_rng([draws.seed, batch.update]).choice(shapes)
        members = self._places[shapes == shape]
        indices = members[draws.integers("prior picture", 0, len(members)).cpu().numpy()]
        latents = self._set.latents(indices).to(self._device)
        conditions = self._conditioner.conditions(indices, draws)
        return Batch(batch.update, batch.keys, latents, conditions, names=self._set.names(indices))
