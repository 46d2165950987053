"""Latent consistency fine-tuning (arXiv 2310.04378, algorithm 4): an LCM learns other pictures without a teacher.

eps ~ N(0, 1);   z_{n+k} = alpha z + sigma eps at t_{n+k};   z_n likewise at t_n, with the same eps
d( f(z_{n+k}, w, c, t_{n+k}), f_target(z_n, w, c, t_n) ) -> min
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laur.core.errors import TrainingError
from laur.train.objective import Loss
from laur.train.objectives.consistency import (
    ConsistencyOptions,
    Consistent,
    Drawn,
    LoraNetworks,
    WholeNetworks,
    draw_pair,
)
from laur.train.objectives.lcm import check_guidance, fresh
from laur.train.objectives.networks import Diffusion

if TYPE_CHECKING:
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.batch import Batch
    from laur.train.draws import Draws


@dataclass(frozen=True, slots=True, kw_only=True)
class LcfOptions(ConsistencyOptions):
    """Fine-tuning of a full LCM, or of a checkpoint with its LCM-LoRA."""

    whole: bool = False
    """Train every weight and write a checkpoint; else a LoRA is trained and written."""
    adapter: str = ""
    """The LCM-LoRA that makes the checkpoint an LCM, by name or file; its own where it has one, none for a full LCM. A
    LoRA that is trained is to be used together with it; it is in every weight of a checkpoint that is written."""
    w_min: float = 2.0
    """For an LCM that is told its guidance: smallest w that is drawn."""
    w_max: float = 14.0
    """Largest."""
    rank: int = 16
    """Of the factors."""
    alpha: float | None = None
    """The difference is alpha / rank · up · down; the rank where it is not set."""
    targets: tuple[str, ...] = ("attention", "projection", "feed_forward", "conv", "time")
    """Layers that learn: groups (attention, projection, feed_forward, conv, time) or patterns of names."""

    def __post_init__(self) -> None:
        ConsistencyOptions.__post_init__(self)
        check_guidance(self.w_min, self.w_max)


class FineTuning(Consistent):
    """The objective."""

    networks: LoraNetworks | WholeNetworks
    options: LcfOptions

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        networks: LoraNetworks | WholeNetworks,
        diffusion: Diffusion,
        options: LcfOptions,
    ) -> None:
        super().__init__(networks, diffusion, options)
        self._loaded = loaded

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """Algorithm 4. Within k of the path's end the other point is the picture itself."""
        conditions = batch.conditions
        assert conditions is not None
        options, diffusion, z = self.options, self.diffusion, batch.latents
        pair = draw_pair(options, draws, diffusion.timesteps)
        noise = draws.normal("noise", z.shape[1:])
        w = options.w_min + (options.w_max - options.w_min) * draws.uniform("guidance")
        x, earlier = (diffusion.noised(z, noise, t) for t in (pair.t, pair.earlier))
        goal = self.ahead(pair, conditions, w, earlier, end=z)
        return self.disagreement(Drawn(z, noise, pair, conditions, w), x, goal)

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Path:
        """A checkpoint's folder, or an adapter's file."""
        from laur.train.objectives import export

        if isinstance(self.networks, WholeNetworks):
            network = self.networks.model
            return export.checkpoint(network, weights, folder, self._loaded, task="lcf", held_out=self.held_out)
        beneath = lcm_lora_of(self.options, self._loaded)
        deltas, device = self.networks.lora.deltas(weights), self.diffusion.device
        beside = (beneath,) if beneath else ()
        return export.adapter(
            deltas, folder, self._loaded, task="lcf", beside=beside, held_out=self.held_out, device=device
        )


def build(options: LcfOptions, loaded: LoadedCheckpoint, device: torch.device) -> FineTuning:
    """Errors: TrainingError where the checkpoint is no LCM and none is made of it."""
    unet = fresh(loaded, device)
    inputs: dict[str, str] = {}
    if beneath := lcm_lora_of(options, loaded):
        inputs["objective.adapter"] = merge(unet, beneath)
    decay = options.target_decay
    if options.whole:
        networks = WholeNetworks(unet, None, decay=decay)
    else:
        networks = LoraNetworks(unet, rank=options.rank, alpha=options.alpha, targets=options.targets, decay=decay)
    objective = FineTuning(loaded, networks, Diffusion(loaded.info, device), options)
    objective.inputs = inputs
    return objective


def lcm_lora_of(options: LcfOptions, loaded: LoadedCheckpoint) -> str:
    """Name or file of the LCM-LoRA under the fine-tuning; empty for a full LCM. Errors: TrainingError for no LCM."""
    if loaded.info.guidance_embedding:
        return ""
    name = options.adapter or next(iter(loaded.info.defaults.adapters), "")
    if not name and not loaded.info.guidance_inside:
        raise TrainingError(
            f"{loaded.info.name} is no LCM; give its LCM-LoRA with --set objective.adapter=FILE, or distil it first"
        )
    return name


def merge(unet: torch.nn.Module, adapter: str) -> str:
    """Add an adapter to the network's weights for good, and give its hash. Errors: NotFoundError, AdapterError."""
    from laur.optimize.catalogue import find
    from laur.optimize.merge import layer_shapes, merged_state

    found = find(adapter)
    layers = layer_shapes(unet, "unet")
    base = {f"unet.{name}": parameter.detach() for name, parameter in unet.named_parameters()}
    changed = merged_state(base, [(found.deltas(layers), 1.0)], torch.float32)
    parameters = dict(unet.named_parameters())
    with torch.no_grad():
        for name, tensor in changed.items():
            parameters[name.removeprefix("unet.")].copy_(tensor)
    return found.sha256
