"""The names that Stability's original code gives to a UNet's layers, from the names that diffusers gives them.

Both number the same layers in the same order: diffusers by block and kind ("down_blocks.1.attentions.0"), the
original by position in one list ("input_blocks.4.1"). LoRA files for SDXL made with kohya's scripts use the latter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def sgm_names(names: Iterable[str]) -> dict[str, str]:
    """Original name to diffusers name, for the layers of one whole UNet ("down_blocks.0.resnets.0.conv1" …)."""
    layout = _Layout(names)
    found = {name: layout.original(name) for name in layout.names}
    return {original: name for name, original in found.items() if original is not None}


class _Layout:
    """How many resnets each block has, so where each block begins in the original's lists."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        parts = [match.groups() for match in map(_BLOCK.fullmatch, self.names) if match]
        self._kinds = {(side, int(block), kind) for side, block, kind, _, _ in parts}
        resnets: dict[tuple[str, int], int] = {}
        for side, block, kind, index, _ in parts:
            if kind == "resnets":
                key = (side, int(block))
                resnets[key] = max(resnets.get(key, 0), int(index) + 1)
        self._resnets: Mapping[tuple[str, int], int] = resnets

    def original(self, name: str) -> str | None:
        """The original's name of a layer; None where it has none."""
        if name in _OUTSIDE:
            return _OUTSIDE[name]
        if middle := _MIDDLE.fullmatch(name):
            kind, index, rest = middle.groups()
            return f"middle_block.{int(index) * 2 if kind == 'resnets' else 1}.{_inner(kind, rest)}"
        if match := _BLOCK.fullmatch(name):
            side, block, kind, index, rest = match.groups()
            place = self._down if side == "down" else self._up
            return place(int(block), kind, int(index), rest)
        return None

    def _down(self, block: int, kind: str, index: int, rest: str) -> str:
        # position 0 is conv_in; each downsampler takes a position of its own
        start = 1 + sum(
            self._resnets.get(("down", b), 0) + (("down", b, "downsamplers") in self._kinds) for b in range(block)
        )
        if kind == "downsamplers":
            return f"input_blocks.{start + self._resnets.get(('down', block), 0)}.0.op"
        return f"input_blocks.{start + index}.{int(kind == 'attentions')}.{_inner(kind, rest)}"

    def _up(self, block: int, kind: str, index: int, rest: str) -> str:
        start = sum(self._resnets.get(("up", b), 0) for b in range(block))
        if kind == "upsamplers":
            # it follows the block's last resnet, and its attention where there is one
            last = start + self._resnets.get(("up", block), 1) - 1
            return f"output_blocks.{last}.{1 + (('up', block, 'attentions') in self._kinds)}.{rest}"
        return f"output_blocks.{start + index}.{int(kind == 'attentions')}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    return _IN_RESNET.get(rest, rest) if kind == "resnets" else rest
