"""Batches of a prepared set, each a function of the update's number alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from laur.core.errors import DataError
from laur.core.noise import Noise
from laur.train.batch import Batch
from laur.train.data.sources import own
from laur.train.draws import Draws

if TYPE_CHECKING:
    from torch import Tensor

    from laur.train.conditions import Conditioner
    from laur.train.data.order import Order
    from laur.train.data.reader import TrainingSet


class Feed:
    """Latents with conditions; without a conditioner the pictures themselves, for an autoencoder."""

    def __init__(
        self,
        data: TrainingSet,
        order: Order,
        conditioner: Conditioner | None,
        seed: int,
        device: torch.device,
        *,
        pictures: bool = False,
        drawn_by: str = "",
        paths_of: tuple[float, float] | None = None,
    ) -> None:
        """`pictures`: give them beside the latents; `drawn_by`: the key of the checkpoint that drew the pictures, where
        what it began with shall be given too; `paths_of`: it drew them as a teacher, with a guidance between these.

        Errors: DataError where the set keeps no pictures, or where that model did not draw them, or not so.
        """
        if drawn_by and own.model_of(data.info.source) != drawn_by:
            raise DataError(
                f"the model did not draw the pictures of {data.folder} itself; `laur data prepare own` does"
            )
        self._noise = bool(drawn_by)
        self._guidance = own.guidance_of(data.info.source)
        if paths_of:
            _check_paths(data, self._guidance, *paths_of)
        if (pictures or conditioner is None) and not data.info.keeps_pixels:
            raise DataError(f"{data.folder} keeps no pictures, which this task needs; prepare it with --pixels")
        self._pictures = pictures
        self._data, self._order, self._conditioner = data, order, conditioner
        self._seed, self._device = seed, device

    def batch(self, update: int, rows: slice) -> tuple[Batch, Draws]:
        """Some rows of an update's global batch, the same whenever they are asked for."""
        whole = self._order.indices(update)
        indices = whole[rows]
        keys = torch.arange(update * len(whole), (update + 1) * len(whole), dtype=torch.int64)[rows]
        draws = Draws(self._seed, keys, self._device)
        names = self._data.names(indices)
        if self._conditioner is None:
            return Batch(update, keys, self._data.pixels(indices).to(self._device), None, names=names), draws
        latents = self._data.latents(indices).to(self._device)
        conditions = self._conditioner.conditions(indices, draws)
        pictures = self._data.pixels(indices).to(self._device) if self._pictures else None
        noise = self._began(names, latents) if self._noise else None
        return Batch(update, keys, latents, conditions, pictures, noise, self._guidance, names), draws

    def _began(self, names: tuple[str, ...], latents: Tensor) -> Tensor:
        """What the model began with when it drew these."""
        shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        return torch.stack([Noise(own.seed_of(name), shape).draw(0, 0) for name in names]).to(latents)


def _check_paths(data: TrainingSet, guidance: float | None, low: float, high: float) -> None:
    if guidance is None:
        raise DataError(
            f"the pictures of {data.folder} are not where a teacher's paths end; "
            "`laur data prepare own --guidance G` draws such"
        )
    if not low <= guidance <= high:
        raise DataError(
            f"{data.folder} was drawn with guidance {guidance:g}, but guidance {low:g} to {high:g} is distilled; "
            "draw it anew, or change w_min and w_max"
        )
