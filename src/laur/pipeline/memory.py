"""Memory is estimated before it is taken, so that a wish too large is one line and not a killed process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from laur.core.errors import ResourceError
from laur.utils import exhausted

if TYPE_CHECKING:
    from laur.core.plan import Plan
    from laur.pipeline.device import Placement
    from laur.pipeline.loading.load import LoadedCheckpoint

is_exhausted = exhausted.is_exhausted
"""See there."""


def picture_bytes(
    width: int,
    height: int,
    *,
    rows: int,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    itemsize: int,
    downscale: int,
) -> int:
    """Upper estimate of the activations for one picture, in bytes.

    The larger of the denoiser's skip connections and widest feed-forward, and the decoder's last level, where up to
    seven maps of its width exist at full size (measured on the CPU at 512x512: 6.2 in bfloat16, 6.6 in float32).
    Attention is computed in tiles and adds no square.
    """
    latent = (width // downscale) * (height // downscale)
    channels = list(unet.get("block_out_channels", (320, 640, 1280, 1280)))
    layers = int(unet.get("layers_per_block", 2) if isinstance(unet.get("layers_per_block", 2), int) else 2)
    skips = sum(width_ * (layers + 1) / 4**level for level, width_ in enumerate(channels))
    widest = max(8 * width_ / 4**level for level, width_ in enumerate(channels))
    denoiser = rows * latent * (skips + widest + 4 * channels[0]) * itemsize
    decoder = width * height * (7 * _decoder_width(vae) * itemsize + 3 * 4 + 3)
    return int(max(denoiser, decoder))


def _decoder_width(vae: Mapping[str, Any]) -> int:
    """Channels at full size."""
    widths = vae.get("decoder_block_out_channels") or vae.get("block_out_channels") or (128,)
    return int(widths[0])


def available_bytes(device: Any) -> int:
    """Memory that can still be taken on a torch device, in bytes."""
    if device.type == "cuda":
        import torch

        # what PyTorch keeps from pictures drawn before is free to it, though not to others
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(kept)
    import psutil

    return int(psutil.virtual_memory().available)


def default_budget(device: Any) -> int:
    """What adapters, text states and texts' keys and values may take unless somebody says: a quarter of the memory.

    Of all the memory, not of what is free: the same machine keeps the same things whatever else runs on it.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[1]) // 4
    import psutil

    return int(psutil.virtual_memory().total) // 4


def require(needed: int, available: int, what: str, remedy: str) -> None:
    """Raise ResourceError where `needed` exceeds nine tenths of what is `available`."""
    if needed > 0.9 * available:
        raise ResourceError(
            f"{what} needs about {_gib(needed)} of memory and {_gib(available)} is free; {remedy}",
        )


def require_for(plan: Plan, loaded: LoadedCheckpoint, place: Placement, *, placed: bool) -> None:
    """Raise ResourceError where one picture of the plan cannot fit; `placed`: its network lies there already."""
    checkpoint, itemsize = loaded.info, place.dtype.itemsize
    needed = picture_bytes(
        plan.width,
        plan.height,
        rows=max(len(stage.rows) for stage in plan.stages),
        unet=checkpoint.unet_config,
        vae=loaded.vae().config,
        itemsize=itemsize,
        downscale=checkpoint.downscale,
    )
    if not placed:  # once, and on a CPU packed once more; files hold halves
        copies = 2 if place.device.type == "cpu" else 1
        needed += loaded.weights_bytes() * copies * itemsize // 2
    native = checkpoint.native_size
    require(
        needed,
        available_bytes(place.device),
        f"a picture of {plan.width}x{plan.height} on {checkpoint.name}",
        f"use a smaller size (it was trained at {native}x{native})",
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"
