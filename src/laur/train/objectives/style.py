"""A style as a LoRA: the denoising loss on a few pictures, with optional losses that keep what the base knew, and that
keep the style when an accelerator draws in few steps.

Prior preservation is that of DreamBooth (arXiv 2208.12242, section 3.2): a second set, of pictures in no such style,
is learned beside the first, so that the adapter stays quiet where the style was not asked for.

An accelerator's consistency function is learned as a regression on pairs: what it drew plainly from some noise is
known, and so is what the style's teacher makes of that, so f(x_T, T) of that same noise is pulled to it, and f(x_t, t)
on the way too. Pairs of noise and picture keep a seed's composition, which an average over all pictures of a caption
would not (as the couplings of rectified flow do: arXiv 2209.03003, section 2.2).
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
from laur.train.objectives.base import DenoisingOptions, denoising, draw_timesteps
from laur.train.objectives.consistency import within
from laur.train.objectives.lora import Lora
from laur.train.objectives.networks import Diffusion, predict

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
    accelerator: str = ""
    """An LCM-LoRA, by name or file, with which every other sample is learned; the set must hold pictures that the model
    drew itself with it (`laur data prepare own`). None where empty."""
    accelerator_first: float = 0.35
    """Part of those samples that begin at the last timestep, with the noise that their picture was drawn from."""
    coupled: float = 0.5
    """With an accelerator: part of the other samples that are noised with the noise their picture was drawn from."""

    def __post_init__(self) -> None:
        DenoisingOptions.__post_init__(self)
        within("accelerator_first", self.accelerator_first, 0, 1)
        within("coupled", self.coupled, 0, 1)


class Style:
    """The objective."""

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        unet: nn.Module,
        diffusion: Diffusion,
        options: StyleOptions,
        *,
        prior: Prior | None = None,
        fast: nn.Module | None = None,
    ) -> None:
        """`fast`: the same network with the accelerator in its weights."""
        self.lora = Lora(unet, rank=options.rank, alpha=options.alpha, targets=options.targets)
        self.model = unet
        self._loaded, self._diffusion, self._options, self._prior = loaded, diffusion, options, prior
        self._fast = fast
        self.needs_noise = fast is not None
        if fast is not None:
            self.lora.share(fast)

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """Of the style's pictures, plus that of the prior's."""
        if self._fast is not None:
            style, parts = self._both(batch, draws)
        else:
            each, _ = denoising(self.model, self._diffusion, self._options, batch, draws)
            style, parts = each.mean(), {}
        if self._prior is None:
            return Loss(style, parts)
        kept, _ = denoising(self.model, self._diffusion, self._options, self._prior.batch(batch, draws), draws)
        total = style + self._options.prior_weight * kept.mean()
        return Loss(total, {**parts, "style": style.detach(), "prior": kept.detach().mean()})

    def _both(self, batch: Batch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Odd samples plainly, even ones with the accelerator. A mean over all of them, and its two parts."""
        z, began, told = batch.latents, batch.noise, batch.conditions
        assert began is not None
        assert told is not None
        options, diffusion = self._options, self._diffusion
        even = (batch.keys % 2 == 0).to(z.device)
        noise = draws.normal("noise", z.shape[1:])
        kind = draws.uniform("kind of noise")
        first = even & (kind < options.accelerator_first)
        t = torch.where(even, draws.integers("timestep", 0, diffusion.timesteps), self._timesteps(draws))
        t = torch.where(first, torch.full_like(t, diffusion.timesteps - 1), t)
        own = first | (~even & (kind < options.coupled))
        noise = torch.where(own[:, None, None, None], began, noise)
        # what sampling begins with holds no picture; at the last timestep of most schedules x_t does, faintly, and what
        # is learned from that trace (the colours) is missing when a picture is drawn
        x = torch.where(first[:, None, None, None], began, diffusion.noised(z, noise, t))
        each = torch.zeros(len(z), device=z.device)
        for network, mask in ((self._fast, even), (self.model, ~even)):
            rows = mask.nonzero().flatten()
            if not len(rows):
                continue
            said = predict(network, x[rows], t[rows], told.rows(rows))
            if network is self._fast:
                error = diffusion.consistency(said, x[rows], t[rows]) - z[rows]
            else:
                error = said - diffusion.target(z[rows], noise[rows], t[rows])
            each = each.index_put((rows,), error.square().flatten(1).mean(1))
        whole = each.detach()
        return each.mean(), {"accelerated": 2 * (whole * even).mean(), "plain": 2 * (whole * ~even).mean()}

    def _timesteps(self, draws: Draws) -> Tensor:
        return draw_timesteps(self._options, draws, self._diffusion.timesteps)

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
    from laur.train.objectives.lcf import merge
    from laur.train.objectives.lcm import fresh

    prior = Prior(options.prior, loaded, device) if options.prior else None
    fast = None
    if options.accelerator:
        fast = fresh(loaded, device)
        merge(fast, options.accelerator)
    return Style(loaded, fresh(loaded, device), Diffusion(loaded.info, device), options, prior=prior, fast=fast)
