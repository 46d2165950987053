"""Checkpoint: what the rest of the house needs to know of a Stable-Diffusion-format model, without its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from laur.core.schedule import NoiseSchedule


class Family(StrEnum):
    """Architectures that share text encoders and conditioning."""

    SD1 = "sd1"
    SD2 = "sd2"
    SDXL = "sdxl"
    SDXL_REFINER = "sdxl-refiner"
    SSD1B = "ssd-1b"
    MINI = "mini"

    @property
    def is_xl(self) -> bool:
        """Whether rows carry pooled text and size ids."""
        return self in {Family.SDXL, Family.SDXL_REFINER, Family.SSD1B}


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a checkpoint's makers recommend; a Recipe's open fields are filled from here."""

    steps: int = 25
    """Without a distilled adapter."""
    guidance: float = 7.5
    sampler: str = "dpm++2m"
    distilled_steps: int = 4
    distilled_guidance: float = 1.0
    adapters: tuple[str, ...] = ()
    """The checkpoint's own acceleration, used with `lcm` and `tcd` (and then the default sampler is `lcm`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model by content, how it was trained and how it is conditioned. Its weights never change while loaded."""

    name: str
    """As the user wrote it: mini, a path, a hub id."""
    path: Path
    """The folder or file that it was read from."""
    sha256: str
    """Over the weights; a single file's own sha256, so that AutoV2 is its first ten digits."""
    key: str
    """sha256 over the weights, the networks' configs and the tokenizers: what draws, where `sha256` names the file."""
    family: Family
    prediction: str
    """epsilon, v_prediction or sample."""
    schedule: NoiseSchedule
    spacing: str
    """leading, trailing or linspace: how un-distilled samplers pick timesteps."""
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    latent_channels: int
    latent_scale: float
    """Latents are (encoded - latent_shift) · latent_scale."""
    latent_shift: float = 0.0
    downscale: int = 8
    """Picture pixels per latent pixel."""
    native_size: int
    """Pixels a side that it was trained at."""
    guidance_embedding: bool = False
    """A full LCM whose UNet is told w = guidance - 1 (arXiv 2310.04378)."""
    guidance_inside: bool = False
    """A full LCM that is told no guidance, as it is in the weights: what a base and its LCM-LoRA are when merged."""
    zeros_for_empty_prompt: bool = False
    aesthetics_score: bool = False
    """SDXL's refiner is told an aesthetic score in place of the target size."""
    defaults: Defaults = field(default_factory=Defaults)
    unet_config: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_lcm(self) -> bool:
        """Whether it draws in few steps without an adapter."""
        return self.guidance_embedding or self.guidance_inside

    @property
    def autov2(self) -> str:
        """The ten-digit hash that A1111 and Civitai show."""
        return self.sha256[:10]
