"""From blocks' short names to the layers of one model, and an adapter's weights by them.

Stability's code counts one block for each pair of a ResNet and what follows it, diffusers one for each resolution: with
L ResNets a resolution, in0 is the first convolution, in(1 + (L + 1) b + j) is down_blocks.b's ResNet j or, for j = L,
its downsampler, and out((L + 1) b + j) is up_blocks.b's ResNet j, with the upsampler beside the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from laur.core.errors import RecipeError

if TYPE_CHECKING:
    from laur.core.plan import ByBlock
    from laur.optimize.deltas import Delta

_PLAIN = {
    "unet": ("unet",),
    "text": ("text_encoder", "text_encoder_2"),
    "text1": ("text_encoder",),
    "text2": ("text_encoder_2",),
    "mid": ("unet.mid_block",),
    "down": ("unet.down_blocks",),
    "up": ("unet.up_blocks",),
}
_NUMBERED = re.compile(r"(down|up|in|out)([0-9]+)")
_RESNET = re.compile(r"unet\.(down|up)_blocks\.([0-9]+)\.resnets\.([0-9]+)\.")


def by_prefix(weights: Mapping[str, float], layers: Iterable[str]) -> ByBlock:
    """Factors by the beginning of layers' names, sorted, for a model of these layers.

    Raises RecipeError for a block that the model does not have.
    """
    names = list(layers)
    table = _table(names)
    found: dict[str, float] = {}
    for block, factor in sorted(weights.items()):
        prefixes = [prefix for prefix in table.get(block, (block,)) if any(_in(name, prefix) for name in names)]
        if not prefixes:
            if block.startswith("text"):  # a model with one text encoder has nothing that 0 would leave out
                continue
            raise RecipeError(f"the model has no block {block}; it has {_shown(table)}")
        found |= dict.fromkeys(prefixes, factor)
    return tuple(sorted(found.items()))


def factor_of(name: str, by_block: ByBlock) -> float:
    """Of one layer: that of the longest beginning that fits, else 1."""
    fitting = [(len(prefix), factor) for prefix, factor in by_block if _in(name, prefix)]
    return max(fitting)[1] if fitting else 1.0


def terms(
    deltas: Mapping[str, Delta], weight: float, by_block: ByBlock | None
) -> list[tuple[Mapping[str, Delta], float]]:
    """An adapter's deltas grouped by what its weight is in their block: terms for `merged_state` and `total`."""
    if not by_block:
        return [(deltas, weight)]
    groups: dict[float, dict[str, Delta]] = {}
    for name, delta in deltas.items():
        groups.setdefault(weight * factor_of(name, by_block), {})[name] = delta
    return [(group, own) for own, group in groups.items() if own]


def _in(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _table(names: list[str]) -> dict[str, tuple[str, ...]]:
    """Beginnings of names by short name, for one model."""
    found: dict[str, tuple[str, ...]] = {**_PLAIN}
    resnets = sorted({(side, int(b), int(j)) for side, b, j in _RESNET.findall("\n".join(names))})
    each = 1 + max((j for side, _, j in resnets if side == "down"), default=0)  # L
    found["in0"] = ("unet.conv_in",)
    for side, block, place in resnets:
        stem = f"unet.{side}_blocks.{block}"
        found[f"{side}{block}"] = (stem,)
        own = (f"{stem}.resnets.{place}", f"{stem}.attentions.{place}")
        if side == "down":
            first = 1 + (each + 1) * block
            found[f"in{first + place}"] = own
            if any(_in(name, f"{stem}.downsamplers") for name in names):
                found[f"in{first + each}"] = (f"{stem}.downsamplers",)
        else:
            last = (f"{stem}.upsamplers",) if place == each else ()
            found[f"out{(each + 1) * block + place}"] = (*own, *last)
    return found


def _shown(table: Mapping[str, tuple[str, ...]]) -> str:
    """Its blocks for people: in0 to in8 …"""
    last: dict[str, int] = {}
    for found in filter(None, map(_NUMBERED.fullmatch, table)):
        last[found[1]] = max(last.get(found[1], 0), int(found[2]))
    return ", ".join(
        ["unet", "text", "down", "mid", "up", *(f"{side}0 to {side}{most}" for side, most in last.items())]
    )
