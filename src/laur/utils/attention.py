"""Which words a UNet looked at, and where: cross-attention probabilities, averaged over heads, layers and steps.

What is known as attention maps of prompt words (Hertz et al., arXiv 2208.01626, section 3; Tang et al., DAAM, arXiv
2210.04885, section 3). Probabilities are worked out beside the network by forward hooks, from the same inputs and
weights: its own attention runs as ever, so that the picture is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from laur.utils.sheet import Cell, SheetStyle, contact_sheet

_HEAT = np.array([(48, 18, 120), (33, 110, 230), (30, 200, 180), (240, 220, 60), (230, 60, 30)], np.float32)
"""From cold to hot, at equal distances."""


class AttentionMaps:
    """Probabilities gathered so far; filled while a `record_attention` block runs."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._layers: dict[tuple[int, int], int] = {}

    @property
    def resolution(self) -> tuple[int, int]:
        """(h, w) of the finest layer. Raises ValueError if nothing was recorded."""
        if not self._sums:
            raise ValueError("no cross-attention was recorded; run the UNet's own modules inside the block")
        return max(self._sums, key=lambda size: size[0] * size[1])

    @property
    def rows(self) -> int:
        """Rows of the batch: with guidance a picture has two."""
        return self._sums[self.resolution].shape[0]

    @property
    def positions(self) -> int:
        """Text positions, the tokens that begin, end and pad included."""
        return self._sums[self.resolution].shape[-1]

    def for_positions(self, positions: Sequence[int], *, row: int = -1) -> np.ndarray:
        """How much of the attention of each place went to these text positions, (h, w) float32 in 0 … 1.

        A word of several tokens has several positions; their shares add up. Every layer counts the same, enlarged
        bilinearly to the finest one's size. Raises IndexError for a position or row that is not there.
        """
        size = self.resolution
        total = torch.zeros(size)
        for found in self._sums.values():
            share = found[row][..., list(positions)].sum(-1)
            total += functional.interpolate(share[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        return (total / sum(self._layers.values())).numpy()

    def add(self, probabilities: Tensor) -> None:
        """Add one layer's, (N, h, w, L). Raises ValueError if the batch or the text changed since the first."""
        size = (probabilities.shape[1], probabilities.shape[2])
        for known in self._sums.values():
            if (known.shape[0], known.shape[-1]) != (probabilities.shape[0], probabilities.shape[-1]):
                raise ValueError("attention is recorded for one batch of one text length; draw one picture alone")
        self._sums[size] = self._sums.get(size, 0) + probabilities
        self._layers[size] = self._layers.get(size, 0) + 1


@contextmanager
def record_attention(unet: nn.Module) -> Generator[AttentionMaps]:
    """Record the cross-attention of a diffusers UNet2DConditionModel while the block runs.

    The hooks are removed when the block ends, whatever happens. Raises ValueError if it has no cross-attention.
    """
    layers = [module for name, module in unet.named_modules() if name.rpartition(".")[2] == "attn2"]
    if not layers:
        raise ValueError(f"{type(unet).__name__} has no cross-attention layers (attn2)")
    maps = AttentionMaps()
    latent = [(1, 1)]

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        sample = args[0] if args else kwargs["sample"]
        latent[0] = (sample.shape[-2], sample.shape[-1])

    def record(module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        context = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        if context is None:
            return
        context = context[0] if isinstance(context, tuple) else context  # image prompts come along in a tuple
        with torch.no_grad():
            shares = _probabilities(module, hidden, context, kwargs.get("attention_mask"))
        maps.add(shares.unflatten(1, _grid_of(latent[0], shares.shape[1])))

    handles = [unet.register_forward_pre_hook(enter, with_kwargs=True)]
    try:
        handles += [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def attention_sheet(
    image: Image.Image, words: Sequence[tuple[str, np.ndarray]], *, columns: int = 4, title: str = ""
) -> Image.Image:
    """The picture, then for each word its map laid over the picture, with the word under it.

    Each map is stretched from its own least to its own greatest value: colours compare places, not words.
    """
    cells: list[Cell] = [image, *(heat_over(image, heat) for _, heat in words)]
    captions = ["", *(word for word, _ in words)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    under = [captions[start : start + columns] for start in range(0, len(cells), columns)]
    return contact_sheet(rows, captions=under, title=title, style=SheetStyle())


def heat_over(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """An (h, w) map over a picture, in colours from blue (least) to red (most), stronger where there is more."""
    spread = float(heat.max() - heat.min())
    level = (heat - heat.min()) / spread if spread > 0 else np.zeros_like(heat)
    large = Image.fromarray(level.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(large), 0, 1)
    place = level * (len(_HEAT) - 1)
    low = np.minimum(place.astype(int), len(_HEAT) - 2)
    part = (place - low)[..., None]
    colour = _HEAT[low] * (1 - part) + _HEAT[low + 1] * part
    opacity = 0.35 + 0.45 * level[..., None]
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    return Image.fromarray(np.clip(grey * (1 - opacity) + colour * opacity, 0, 255).astype(np.uint8))


def _probabilities(attention: Any, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T · scale + mask) averaged over heads: (N, places, L) float32 on the CPU."""
    if attention.norm_cross:
        context = attention.norm_encoder_hidden_states(context)
    query = attention.to_q(hidden).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    key = attention.to_k(context).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    if attention.norm_q is not None:
        query = attention.norm_q(query)
    if attention.norm_k is not None:
        key = attention.norm_k(key)
    scores = query.float() @ key.float().transpose(-1, -2) * attention.scale
    if mask is not None:
        # (N, L) or (N, 1, L): booleans say what is seen, numbers are added
        mask = mask.reshape(mask.shape[0], 1, 1, mask.shape[-1])
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.float()
    return scores.softmax(-1).mean(1).cpu()


def _grid_of(latent: tuple[int, int], places: int) -> tuple[int, int]:
    """The (h, w) of a layer with so many places: the latent's, halved (rounding up) as often as it takes."""
    height, width = latent
    while height * width > places:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != places:
        raise ValueError(f"{places} places do not come from halving a latent of {latent[0]}x{latent[1]}")
    return height, width
