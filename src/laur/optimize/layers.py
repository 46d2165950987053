"""What an adapter needs to know of a layer before any weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

CROSS_ATTENTION_KEYS = ("attn2.to_k", "attn2_to_k")
"""Layers whose inputs are the text's states, dotted and as kohya writes them: their width tells a model's family."""

FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL", 1280: "SDXL's refiner"}
"""By the width of the text states that the cross-attention reads."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Shape of a linear or convolutional layer's weight: (out, in) or (out, in / groups, kernel height, width)."""

    weight: tuple[int, ...]
    groups: int = 1
    bias: bool = True
    """Whether the layer has one."""

    @property
    def flat(self) -> tuple[int, int]:
        """(out, everything else): the matrix that the layer's weight is."""
        return self.weight[0], math.prod(self.weight[1:])


Shape = tuple[int | None, ...]
"""A weight's shape that an adapter was made for; None where any size will do."""


def fits(made_for: Shape, layer: LayerShape) -> bool:
    """Whether it is the layer's shape. A linear layer and a 1x1 convolution are the same thing."""
    return _without_ones(made_for) == _without_ones(layer.weight)


def shape_message(name: str, made_for: Shape, layer: LayerShape) -> str:
    """One line on an adapter that does not fit this layer."""
    shape = "x".join("any" if side is None else str(side) for side in made_for)
    has = "x".join(map(str, layer.weight))
    return f"{name} is {has} in this checkpoint, but the adapter was made for {shape}; choose one made for this model"


def _without_ones(shape: Shape) -> Shape:
    return shape[:2] if shape[2:] == (1, 1) else shape
