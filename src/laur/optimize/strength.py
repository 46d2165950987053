"""How far adapters together move a network from its own weights: ‖Σ w Δ‖ / ‖W‖ of each layer, in the Frobenius norm.

For inputs without a preferred direction this is the size of what the adapters add to a layer's output, relative to the
output. The norm of a sum of low-rank differences comes from the inner products of their factors (of the size of the
ranks), without any matrix of the weight's size; so it is known before the first step and costs no step anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laur.optimize.deltas import LowRank

if TYPE_CHECKING:
    from laur.optimize.deltas import Delta

Terms = Sequence[tuple[Mapping[str, "Delta"], float]]


@dataclass(frozen=True, slots=True)
class Strength:
    """Of one sum of adapters in one network."""

    by_layer: Mapping[str, float]
    """‖Σ w Δ‖ / ‖W‖ of each layer that changes."""
    layers: int
    """How many could."""

    @property
    def overall(self) -> float:
        """The root of the mean square over all layers; those that do not change count as 0."""
        return math.sqrt(sum(value**2 for value in self.by_layer.values()) / max(self.layers, 1))

    def most(self, count: int = 1) -> list[tuple[str, float]]:
        """The layers that change most, the most first."""
        return sorted(self.by_layer.items(), key=lambda item: -item[1])[:count]


@torch.no_grad()
def strength(
    terms: Terms,
    weight_of: Callable[[str], Tensor],
    norm_of: Callable[[str], float],
    *,
    layers: int,
    device: torch.device | None = None,
) -> Strength:
    """Of Σ weight · Δ; `weight_of` and `norm_of` give a layer's own weight and its norm. Biases do not count."""
    summands: dict[str, list[tuple[Delta, float]]] = {}
    for deltas, weight in terms:
        for name, delta in deltas.items():
            if weight and not name.endswith(".bias"):
                summands.setdefault(name, []).append((delta, weight))
    found: dict[str, float] = {}
    for name, parts in summands.items():
        change = _norm(parts, name, weight_of, device)
        own = norm_of(name)
        found[name] = change / own if own else math.inf if change else 0.0
    return Strength(found, layers)


def _norm(
    parts: list[tuple[Delta, float]], name: str, weight_of: Callable[[str], Tensor], device: torch.device | None
) -> float:
    low = [(delta, weight) for delta, weight in parts if isinstance(delta, LowRank)]
    if len(low) == len(parts):
        return _norm_of_product(low, device)
    base = weight_of(name)
    total = torch.zeros(base.shape, device=base.device)
    for delta, weight in parts:
        delta.add_to(total, base, weight)
    return float(total.norm())


def _norm_of_product(parts: list[tuple[LowRank, float]], device: torch.device | None) -> float:
    """‖U D‖ with the factors side by side: its square is the sum of (Uᵀ U) ∘ (D Dᵀ)."""
    ups: list[Tensor] = []
    downs: list[Tensor] = []
    for delta, weight in parts:
        up, down = delta.factors(device)
        ups.append(up * (weight * delta.scale))
        downs.append(down)
    up, down = torch.cat(ups, 1), torch.cat(downs)
    return math.sqrt(max(float(((up.t() @ up) * (down @ down.t())).sum()), 0.0))
