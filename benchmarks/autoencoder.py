"""What an autoencoder gives back, and whether a denoiser's latents still mean the same to it as to a former one.

    git worktree add ../former COMMIT
    python benchmarks/autoencoder.py --pack mini-train --former $(PYTHONPATH=../former/src laur models path mini)

There and back: icons of held-out concepts, what each style's teacher makes of some of them, flat colours. Then what the
former encoder gave, and what the denoiser draws in four steps (without a style and in two), decoded by both. Both
checkpoints must share their denoiser. `mini`'s own runs learned what teachers make of other icons.
"""

from __future__ import annotations

import argparse
import colorsys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from harness import report
from PIL import Image

from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.pipeline.events import Done
from laur.pipeline.loading.load import load
from laur.style.cards import shipped
from laur.style.teachers import teacher
from laur.train.data.picture import Skip
from laur.train.data.sources.fold import Fold
from laur.train.data.sources.pack import Pack
from laur.train.data.sources.restyled import Restyled
from laur.utils.metrics.agreement import psnr

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 256
TOGETHER = 8
"""Pictures that an autoencoder is given at once."""
COLOURED = ("fluent 3d", "noto", "twemoji", "fluent flat", "emojione", "fluent gradient")
"""Styles of the pack that teachers paint over."""
PROMPTS = (
    "red heart", "a red apple, fluent 3d", "green frog, noto", "purple butterfly, twemoji", "yellow duck, fluent flat",
    "blue rocket, noto", "smiling face, fluent 3d", "orange fish, emojione", "a red apple", "a green leaf",
    "a blue car", "a pink flower",
)  # fmt: skip
STYLES = (None, "watercolour", "ink")


class Autoencoder:
    """One of a checkpoint, in float32."""

    def __init__(self, name: str) -> None:
        loaded = load(name)
        self.info = loaded.info
        self._vae = loaded.vae().float().eval()

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """(n, C, h, w), the mean, of (n, 3, H, W) in -1..1."""
        found: list[Any] = [self._vae.encode(some) for some in pictures.split(TOGETHER)]
        return torch.cat([one.latents if hasattr(one, "latents") else one.latent_dist.mean for one in found])

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """(n, 3, H, W) in -1..1, in steps of 255, as a picture's file holds it."""
        x = torch.cat([self._vae.decode(some, return_dict=False)[0] for some in latents.split(TOGETHER)])
        return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1

    def there_and_back(self, pictures: Tensor) -> Tensor:
        """The same shape."""
        return self.decode(self.encode(pictures))


def pictures_of(source: Any, count: int) -> Tensor:
    """(n, 3, SIDE, SIDE) of the first that can be drawn."""
    found: list[Tensor] = []
    for pixels in _drawn(source):
        found.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1)
        if len(found) == count:
            break
    return torch.stack(found)


def _drawn(source: Any) -> Iterator[np.ndarray]:
    for record in source.records(0, len(source)):
        try:
            image = record.draw(SIDE).image
        except Skip:
            continue
        yield np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def decibels(one: Tensor, other: Tensor) -> dict[str, float]:
    """Mean and least of their PSNR."""
    return told(torch.as_tensor(psnr(as_bytes(one), as_bytes(other))))


def as_bytes(pictures: Tensor) -> np.ndarray:
    """(n, H, W, 3) uint8 of (n, 3, H, W) in -1..1."""
    return ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def told(values: Tensor) -> dict[str, float]:
    """Mean and least."""
    return {"mean": round(float(values.mean()), 2), "least": round(float(values.min()), 2)}


def flat_colours() -> Tensor:
    """(48, 3, SIDE, SIDE): twelve hues in four lightnesses."""
    found = [colorsys.hls_to_rgb(hue / 12, light, 0.7) for light in (0.25, 0.45, 0.65, 0.85) for hue in range(12)]
    return (torch.tensor(found).float() * 2 - 1)[:, :, None, None].expand(-1, -1, SIDE, SIDE)


def furthest(one: Tensor, other: Tensor) -> dict[str, float]:
    """Of 255, the furthest channel of each flat colour, away from the border."""
    inner = slice(SIDE // 4, 3 * SIDE // 4)
    gap = (one[..., inner, inner].mean((2, 3)) - other[..., inner, inner].mean((2, 3))).abs().amax(1) * 127.5
    return {"mean": round(float(gap.mean()), 1), "most": round(float(gap.max()), 1)}


def drawn(name: str, style: str | None) -> Tensor:
    """(n, C, h, w): what the checkpoint draws of PROMPTS in four steps, as its autoencoder knows latents."""
    engine = Engine(name)
    info = engine.library.checkpoint(name)
    recipes = [Recipe(prompt=prompt, seed=seed, steps=4, style=style) for seed, prompt in enumerate(PROMPTS)]
    done = [event for event in engine.stream(recipes) if isinstance(event, Done)]
    latents = [event.latent for event in sorted(done, key=lambda one: one.ticket.number)]
    return torch.stack([z.float().cpu() for z in latents if z is not None]) / info.latent_scale + info.latent_shift


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True, help="where the icons are")
    parser.add_argument("--checkpoint", default="mini")
    parser.add_argument("--former", required=True, help="a checkpoint whose denoiser is the same")
    parser.add_argument("--pictures", type=int, default=40, help="icons")
    parser.add_argument("--painted", type=int, default=4, help="pictures of each teacher")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    wish = parser.parse_args()
    now, former = Autoencoder(wish.checkpoint), Autoencoder(wish.former)
    icons = pictures_of(Fold(Pack(wish.pack), wish.pictures, held_out=True), wish.pictures)
    figures: dict[str, Any] = {}

    def both(name: str, pictures: Tensor, measure: Any) -> None:
        figures[name] = {
            "former": measure(pictures, former.there_and_back(pictures)),
            "now": measure(pictures, now.there_and_back(pictures)),
        }
        print(name, figures[name], flush=True)

    both("icons there and back, dB", icons, decibels)
    before, after = former.encode(icons), now.encode(icons)
    figures["the former latents of icons, decoded now, dB"] = decibels(icons, now.decode(before))
    moved = (after - before).square().mean((1, 2, 3)) / before.var((1, 2, 3))
    figures["latents of icons moved, share of their variance"] = {
        "mean": round(float(moved.mean()), 4), "median": round(float(moved.median()), 4),
        "most": round(float(moved.max()), 4),
    }  # fmt: skip
    beneath = Fold(Pack(wish.pack, styles=COLOURED), wish.painted, held_out=True)
    for card in shipped():
        if card.teacher:
            painted = Restyled(beneath, teacher(card.teacher), "", seed=0)
            both(f"{card.name} there and back, dB", pictures_of(painted, wish.painted), decibels)
    both("flat colours, furthest channel of 255", flat_colours(), furthest)
    for style in STYLES:
        latents = drawn(wish.checkpoint, style)
        name = f"drawn in four steps{f', {style}' if style else ''}: now against the former decoder, dB"
        figures[name] = decibels(former.decode(latents), now.decode(latents))
    report("autoencoder", (__doc__ or "").splitlines()[0], figures, wish.out)


if __name__ == "__main__":
    main()
