"""Differences of a layer's weight: low-rank, per-channel scale, dense, Kronecker, and DoRA's.

Each adds `weight · Δ(W)` to a float32 copy of W; Δ always starts from the untouched W, so the sum of many adapters
does not depend on one another. All but DoRA's are linear in their weight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from laur.core.errors import MismatchError
from laur.optimize.layers import LayerShape, Shape, fits, shape_message

Weighting: TypeAlias = Literal["peft", "lycoris"]
"""Whose DoRA: what its weight means."""


class Delta(ABC):
    """A difference of one layer's weight W, (out, in) or (out, in, kernel height, kernel width); or of its bias."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that it holds."""

    @property
    @abstractmethod
    def made_for(self) -> Shape:
        """The weight's shape that it was made for; None where any will do."""

    @abstractmethod
    def add_to(self, total: Tensor, base: Tensor, weight: float = 1.0) -> None:
        """total += weight · Δ(base), in place. `total`: contiguous float32; `base`: W itself, any dtype."""

    def apply(self, base: Tensor, weight: float = 1.0) -> Tensor:
        """base + weight · Δ(base) as a new float32 tensor."""
        total = base.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        self.add_to(total, base, weight)
        return total

    def fits(self, layer: LayerShape) -> bool:
        """Whether it can be added to that layer."""
        return fits(self.made_for, layer)

    def check(self, name: str, layer: LayerShape) -> None:
        """Raise MismatchError unless it fits the layer."""
        if not self.fits(layer):
            raise MismatchError(shape_message(name, self.made_for, layer))


@dataclass(frozen=True, slots=True, eq=False)
class LowRank(Delta):
    """scale · up · (mid ·) down (LoRA, arXiv 2106.09685; `mid`: the LoCon of LyCORIS, arXiv 2309.14859, section 2)."""

    up: Tensor
    """(out, r), or (out, r, 1, 1)."""
    down: Tensor
    """(r, in), or (r, in, kernel height, kernel width); with `mid` its kernel is 1x1."""
    scale: float = 1.0
    """alpha / r."""
    mid: Tensor | None = None
    """(r, r, kernel height, kernel width)."""

    def __post_init__(self) -> None:
        inner = (self.up.flatten(1).shape[1], self.down.shape[0])
        outer = inner if self.mid is None else tuple(self.mid.shape[:2])
        if inner != outer or (self.mid is None and inner[0] != inner[1]):
            raise MismatchError(f"ranks disagree: up has {inner[0]}, down has {inner[1]}, mid has {outer}")

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return sum(tensor.nbytes for tensor in (self.up, self.down, self.mid) if tensor is not None)

    @property
    def made_for(self) -> Shape:
        """(out, in, …) that the factors give."""
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return self.up.shape[0], self.down.shape[1], *kernel

    def factors(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """(out, r) and (r, in · kernel) in float32, whose product times `scale` is the difference."""
        up, down = (t.to(device, torch.float32).flatten(1) for t in (self.up, self.down))
        if self.mid is not None:
            mid = self.mid.to(device, torch.float32)
            down = torch.einsum("ijkl,jn->inkl", mid, down).flatten(1)
        return up, down

    def add_to(self, total: Tensor, base: Tensor, weight: float = 1.0) -> None:
        """total += weight · scale · up · down."""
        up, down = self.factors(total.device)
        total.view(total.shape[0], -1).addmm_(up, down, alpha=weight * self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Delta):
    """W times a factor per output channel (axis 0) or input channel (axis 1), as in IA3 (arXiv 2205.05638)."""

    factor: Tensor
    """(out,) or (in,)."""
    axis: int = 0

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.factor.nbytes

    @property
    def made_for(self) -> Shape:
        """One side is known, the other open."""
        size = self.factor.numel()
        return (size, None) if self.axis == 0 else (None, size)

    def fits(self, layer: LayerShape) -> bool:
        """Whether there is one factor for each channel."""
        return layer.weight[self.axis] == self.factor.numel()

    def add_to(self, total: Tensor, base: Tensor, weight: float = 1.0) -> None:
        """total += weight · (factor - 1) · base."""
        shape = [1] * base.ndim
        shape[self.axis] = -1
        change = (self.factor.to(total.device, torch.float32) - 1).view(shape)
        total.addcmul_(base.to(torch.float32), change, value=weight)


@dataclass(frozen=True, slots=True, eq=False)
class Dense(Delta):
    """A whole difference of the weight."""

    difference: Tensor
    scale: float = 1.0

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.difference.nbytes

    @property
    def made_for(self) -> Shape:
        """The difference's own shape."""
        return tuple(self.difference.shape)

    def add_to(self, total: Tensor, base: Tensor, weight: float = 1.0) -> None:
        """total += weight · scale · difference."""
        total.add_(self.difference.to(total.device, torch.float32).view(total.shape), alpha=weight * self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker(Delta):
    """scale · left ⊗ right (LoKr of LyCORIS, arXiv 2309.14859, section 3.2); a kernel belongs to `right`."""

    left: Tensor
    """(a, b)."""
    right: Tensor
    """(c, d), or (c, d, kernel height, kernel width): W is (a · c, b · d, …)."""
    scale: float = 1.0

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.left.nbytes + self.right.nbytes

    @property
    def made_for(self) -> Shape:
        """(a · c, b · d, …)."""
        (a, b), (c, d, *kernel) = self.left.shape, self.right.shape
        return a * c, b * d, *kernel

    def add_to(self, total: Tensor, base: Tensor, weight: float = 1.0) -> None:
        """total += weight · scale · left ⊗ right."""
        left, right = (t.to(total.device, torch.float32).contiguous() for t in (self.left, self.right))
        left = left.view(*left.shape, *(1 for _ in right.shape[2:]))
        total.add_(torch.kron(left, right).view(total.shape), alpha=weight * self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class DoRA(Delta):
    """W' = m · V / ‖V‖ with V = W + Δ, the norm taken over each output or each input channel (arXiv 2402.09353).

    W' is not linear in the adapter's weight w, and its authors' programs do not agree on what w is. Here a file means
    what the program that wrote it means:

        peft     W' = m V_w / ‖V_w‖,  V_w = W + w Δ                       (PEFT: w is part of LoRA's scale)
        lycoris  W' = V (1 + w (m / ‖V‖ - 1)),  V = W + Δ                 (LyCORIS: w fades the magnitude alone)

    Both are the trained W' at w = 1, and neither comes to W as w goes to 0. A weight of 0 itself leaves W, as for all
    adapters.
    """

    inner: Delta
    """Δ: linear in its weight."""
    magnitude: Tensor
    """m: (out,) or (in,)."""
    axis: int = 0
    """Whose norms: 0 of output channels, 1 of input channels."""
    weighting: Weighting = "peft"

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.inner.nbytes + self.magnitude.nbytes

    @property
    def made_for(self) -> Shape:
        """That of Δ."""
        return self.inner.made_for

    def fits(self, layer: LayerShape) -> bool:
        """Whether Δ does, and there is one magnitude for each channel."""
        return self.inner.fits(layer) and layer.weight[self.axis] == self.magnitude.numel()

    def add_to(self, total: Tensor, base: Tensor, weight: float = 1.0) -> None:
        """total += W' - base."""
        if weight == 0:
            return
        changed = self.inner.apply(base, weight if self.weighting == "peft" else 1.0)
        norm = torch.linalg.vector_norm(changed, dim=[d for d in range(base.ndim) if d != self.axis], keepdim=True)
        factor = self.magnitude.to(total.device, torch.float32).view_as(norm) / norm.clamp_min(_SMALLEST)
        if self.weighting == "lycoris":
            factor = 1 + weight * (factor - 1)
        total.add_(changed.mul_(factor)).sub_(base.to(torch.float32))


_SMALLEST = torch.finfo(torch.float32).tiny
"""A channel of zeros stays one."""
