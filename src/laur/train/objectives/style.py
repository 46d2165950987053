"""A style as a LoRA: the denoising loss on a few pictures, with an optional loss that keeps what the base knew.

Prior preservation is that of DreamBooth (arXiv 2208.12242, section 3.2): a second set, of pictures in no such style,
is learned beside the first, so that the adapter stays quiet where the style was not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from laur.core.errors import TrainingError
from laur.train.batch import Batch
from laur.train.objective import Loss
from laur.train.objectives.base import DenoisingOptions, denoising
from laur.train.objectives.lora import Lora
from laur.train.objectives.networks import Diffusion

if TYPE_CHECKING:
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.draws import Draws


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleOptions(DenoisingOptions):
    """A LoRA from a small set."""

    rank: int = 16
    """Of the factors."""
    alpha: float | None = None
    """The difference is alpha / rank · up · down; the rank where it is not set."""
    targets: tuple[str, ...] = ("attention", "projection", "feed_forward", "conv")
    """Layers that learn: groups (attention, projection, feed_forward, conv, time) or patterns of names."""
    trigger_words: tuple[str, ...] = ()
    """Words of the captions that call the style; written into the file, so that prompts get them by themselves."""
    prior: str = ""
    """A prepared set of pictures that are not in the style, to keep what the base knows; none where empty."""
    prior_weight: float = 1.0
    """How much that counts."""


class Style:
    """The objective."""

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        unet: nn.Module,
        diffusion: Diffusion,
        options: StyleOptions,
        prior: Prior | None = None,
    ) -> None:
        self.lora = Lora(unet, rank=options.rank, alpha=options.alpha, targets=options.targets)
        self.model = unet
        self._loaded, self._diffusion, self._options, self._prior = loaded, diffusion, options, prior

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """Of the style's pictures, plus that of the prior's."""
        each, _ = denoising(self.model, self._diffusion, self._options, batch, draws)
        if self._prior is None:
            return Loss(each.mean())
        kept, _ = denoising(self.model, self._diffusion, self._options, self._prior.batch(batch, draws), draws)
        total = each.mean() + self._options.prior_weight * kept.mean()
        return Loss(total, {"style": each.detach().mean(), "prior": kept.detach().mean()})

    def updated(self, update: int) -> None:
        """Nothing follows."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the factors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing but the factors."""

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Path:
        """An adapter's file."""
        from laur.train.objectives import export

        deltas = self.lora.deltas(weights)
        return export.adapter(deltas, folder, self._loaded, task="style", trigger_words=self._options.trigger_words)


class Prior:
    """A second prepared set, from which each sample of a batch draws a companion."""

    def __init__(self, folder: str, loaded: LoadedCheckpoint, device: torch.device) -> None:
        """Errors: DataError."""
        import numpy as np

        from laur.train.conditions import Conditioner
        from laur.train.data.reader import TrainingSet

        self._set = TrainingSet.open(Path(folder))
        buckets, counts = np.unique(self._set.bucket, return_counts=True)
        if not len(counts):
            raise TrainingError(f"the prior set {folder} holds no pictures; prepare it from a folder that does")
        # all of a call have one shape: the commonest
        self._indices = np.flatnonzero(self._set.bucket == buckets[counts.argmax()])
        self._conditioner = Conditioner(loaded, self._set, 0.0, device)
        self._device = device

    def batch(self, batch: Batch, draws: Draws) -> Batch:
        """As many samples, drawn by the keys of the batch's own."""
        picks = draws.integers("prior picture", 0, len(self._indices)).cpu().numpy()
        indices = self._indices[picks]
        latents = self._set.latents(indices).to(self._device)
        conditions = self._conditioner.conditions(indices, draws)
        return Batch(batch.update, batch.keys, latents, conditions, names=self._set.names(indices))


def build(options: StyleOptions, loaded: LoadedCheckpoint, device: torch.device) -> Style:
    """Errors: TrainingError, DataError."""
    from laur.train.objectives.lcm import fresh

    prior = Prior(options.prior, loaded, device) if options.prior else None
    return Style(loaded, fresh(loaded, device), Diffusion(loaded.info, device), options, prior)
