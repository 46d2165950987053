"""Sample sheets while training: the same prompts and seeds each time, drawn by laur's own Engine.

The network is copied in the Engine's precision with the averaged weights in place of the live ones, which are not
touched; nothing is drawn from any generator that training uses.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from laur.core.errors import LaurError
from laur.train.folder import SHEETS
from laur.utils.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from laur.core.checkpoint import Checkpoint
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.config import SheetConfig
    from laur.train.listener import Listener
    from laur.train.objective import Objective

MANY: Final[Mapping[str, Any]] = {"sampler": "dpm++2m", "steps": 20}
FEW: Final[Mapping[str, Any]] = {"sampler": "lcm", "steps": 4}
FEW_STEP_TASKS = ("lcm", "lcm-lora", "lcf")
TOLD_GUIDANCE = 8.0
"""What an LCM that is told its guidance is sampled at (arXiv 2310.04378, section 5.1); others have it in them."""


class Sheets:
    """Draws what the network that is being trained makes of a few prompts."""

    def __init__(
        self,
        task: str,
        config: SheetConfig,
        folder: Path,
        *,
        objective: Objective,
        loaded: LoadedCheckpoint,
        prompts: tuple[str, ...],
        size: tuple[int, int],
        device: torch.device,
        listener: Listener,
    ) -> None:
        """`prompts` are one a row, pictures of `size` (width, height); sheets go into `folder`/sheets."""
        self._objective = objective
        self._loaded = loaded
        self._prompts = prompts
        self._seeds = config.seeds
        self._device = device
        self._listener = listener
        self._folder = folder / SHEETS
        own = {"steps": config.steps, "guidance": config.guidance, "width": size[0], "height": size[1]}
        wished = {name: value for name, value in own.items() if value is not None}
        plain = {**FEW, "guidance": TOLD_GUIDANCE if is_told(objective.model) else 1.0}
        self._fields: dict[str, Any] = {**(plain if task in FEW_STEP_TASKS else MANY), **wished}

    def draw(self, update: int, weights: Mapping[str, Tensor]) -> Path | None:
        """The sheet after so many updates. What goes wrong with it is a warning: the run goes on."""
        from laur.utils.sheet import SheetStyle, contact_sheet

        with _forgiven(self._listener, update):
            pictures = self._pictures(weights)
            rows = [pictures[i : i + len(self._seeds)] for i in range(0, len(pictures), len(self._seeds))]
            sheet = contact_sheet(
                rows,
                row_labels=self._prompts,
                column_labels=[f"seed {seed}" for seed in self._seeds],
                title=f"after {update} updates",
                style=SheetStyle(),
            )
            return save_sheet(sheet, self._folder / f"{update:08d}.png")

    def _pictures(self, weights: Mapping[str, Tensor]) -> list[Image]:
        """All prompts by all seeds, in rows."""
        from laur.core.recipe import Recipe
        from laur.pipeline.device import choose
        from laur.pipeline.engine import Engine
        from laur.pipeline.library import Library, placed_copy

        place = choose(self._device)
        changed = {f"unet.{name}": tensor for name, tensor in weights.items()}
        network = placed_copy(self._objective.model, "unet", changed, place)
        library = Library(place, plain=True)
        library.adopt(self._loaded.over(network, described(self._loaded.info, network)))
        engine = Engine(self._loaded.info.name, library=library)
        return engine.run(
            Recipe(prompt=prompt, seed=seed, adapters=(), **self._fields)
            for prompt in self._prompts
            for seed in self._seeds
        )


@contextmanager
def _forgiven(listener: Listener, update: int) -> Generator[None]:
    """No sheet, and a warning in its place, where it cannot be drawn or written."""
    try:
        yield
    except (LaurError, OSError) as fault:
        listener.warn(f"no sheet after update {update}: {fault}")
    except (RuntimeError, MemoryError) as fault:
        from laur.pipeline import memory

        if not memory.is_exhausted(fault):
            raise
        listener.warn(f"no sheet after update {update}: memory ran out; set sheet.updates=0 to draw none")


class Reconstructions:
    """Draws pictures of the set, and under each what the autoencoder that is being trained makes of it."""

    def __init__(
        self, objective: Objective, pictures: Tensor, folder: Path, *, device: torch.device, listener: Listener
    ) -> None:
        """`pictures` (N, 3, H, W) in [-1, 1]."""
        self._objective = objective
        self._pictures = pictures
        self._folder = folder / SHEETS
        self._device = device
        self._listener = listener

    def draw(self, update: int, weights: Mapping[str, Tensor]) -> Path | None:
        """The sheet after so many updates. What goes wrong with it is a warning: the run goes on."""
        from laur.utils.sheet import contact_sheet

        with _forgiven(self._listener, update):
            rows = [_arrays(self._pictures), _arrays(self._decoded(weights))]
            sheet = contact_sheet(rows, row_labels=("picture", "decoded"), title=f"after {update} updates")
            return save_sheet(sheet, self._folder / f"{update:08d}.png")

    def _decoded(self, weights: Mapping[str, Tensor]) -> Tensor:
        import torch

        from laur.pipeline.device import choose
        from laur.pipeline.library import placed_copy

        changed = {f"vae.{name}": tensor for name, tensor in weights.items()}
        network = placed_copy(self._objective.model, "vae", changed, choose(self._device, "float32"))
        # one at a time: they are whole pictures, where the training takes crops
        return torch.cat([reconstructed(network, one.to(self._device)) for one in self._pictures.split(1)])


def reconstructed(vae: Any, pictures: Tensor) -> Tensor:
    """(N, 3, H, W) through encoder (its mean) and decoder, without gradients."""
    import torch

    with torch.inference_mode():
        encoded = vae.encode(pictures)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return vae.decode(latents).sample.float().cpu()


def _arrays(pictures: Tensor) -> list[np.ndarray]:
    """(H, W, 3) uint8 each, of (N, 3, H, W) in [-1, 1]."""
    pixels = ((pictures.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [picture.permute(1, 2, 0).contiguous().numpy() for picture in pixels]


def described(info: Checkpoint, network: nn.Module) -> Checkpoint:
    """What is known of a checkpoint whose denoiser is `network`: it may have been given a guidance embedding."""
    config = dict(getattr(network, "config", info.unet_config))
    return dataclasses.replace(info, guidance_embedding=is_told(network), unet_config=config)


def is_told(network: nn.Module) -> bool:
    """Whether the network has an input for the guidance scale."""
    return getattr(getattr(network, "config", None), "time_cond_proj_dim", None) is not None


def save_sheet(sheet: Image, path: Path) -> Path:
    """As PNG, whole or not at all; its folder is made."""
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_write(path, buffer.getvalue())
