"""Low-rank layers that train: W' = W + s · up · down inside a network's own linear and convolutional layers.

A layer keeps its place, its name and its class's kin (`isinstance(layer, nn.Linear)` holds), so canonical layer names
stay as they are and whatever copies or samples the network needs to know nothing of it. Which factors are in force is
one switch for the whole network, so that teacher (none), student and target share one set of base weights.

The difference is added to the weight or to the output, whichever is cheaper. Added to the weight it costs one small
product a pass however many pictures there are, but a gradient has to go through the whole weight's. Beside the layer it
costs two thin products for every position, and its gradients as much again twice, but the base weight needs none.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from laur.core.errors import TrainingError

if TYPE_CHECKING:
    from laur.optimize.deltas import Delta, LowRank

GROUPS: dict[str, tuple[str, ...]] = {
    "attention": ("*.to_q", "*.to_k", "*.to_v", "*.to_out.0"),
    "projection": ("*.proj_in", "*.proj_out"),
    "feed_forward": ("*.ff.net.0.proj", "*.ff.net.2"),
    "conv": ("*.conv1", "*.conv2", "*.conv_shortcut", "*.downsamplers.0.conv", "*.upsamplers.0.conv"),
    "time": ("*.time_emb_proj",),
}
"""Names for sets of layers; other words are taken as patterns of layer names."""


class Switch:
    """Which factors are in force: "own", "target" or "off"."""

    def __init__(self) -> None:
        self.mode = "own"

    @contextmanager
    def to(self, mode: str) -> Generator[None]:
        """Within the block."""
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before


class LowRankLayer(nn.Module):
    """What the two kinds of layer have in common. `up` and `down` are trained; the base weight is not."""

    weight: nn.Parameter
    """The base's, frozen."""
    up: nn.Parameter
    """(out, r)."""
    down: nn.Parameter
    """(r, in · kernel)."""
    target_up: Tensor | None
    target_down: Tensor | None
    scale: float
    switch: Switch
    thin: bool
    """Whether the factors are cheaper beside the layer than a gradient of its weight."""

    @property
    def beside(self) -> bool:
        """Whether this pass adds the difference to the output."""
        return self.thin and torch.is_grad_enabled() and self.switch.mode == "own"

    def merged(self) -> Tensor:
        """The weight in force."""
        weight = self.weight
        if self.switch.mode == "off":
            return weight
        up, down = self.up, self.down
        if self.switch.mode == "target" and self.target_up is not None and self.target_down is not None:
            up, down = self.target_up, self.target_down
        with torch.autocast(weight.device.type, enabled=False):  # a small product, and the difference is small too
            return weight + (self.scale * (up @ down)).view_as(weight)


class LowRankLinear(LowRankLayer, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A linear with a trained low-rank difference."""

    def forward(self, input: Tensor, *_: Any) -> Tensor:
        """As nn.Linear."""
        if self.beside:
            thin = functional.linear(functional.linear(input, self.down), self.scale * self.up)
            return functional.linear(input, self.weight, self.bias) + thin
        return functional.linear(input, self.merged(), self.bias)


class LowRankConv2d(LowRankLayer, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A convolution with a trained low-rank difference."""

    def forward(self, input: Tensor, *_: Any) -> Tensor:
        """As nn.Conv2d."""
        if self.beside:
            down = self.down.view(-1, *self.weight.shape[1:]).contiguous(memory_format=torch.channels_last)
            thin = functional.conv2d(self._conv_forward(input, down, None), (self.scale * self.up)[:, :, None, None])
            return self._conv_forward(input, self.weight, self.bias) + thin
        return self._conv_forward(input, self.merged(), self.bias)


class Lora:
    """The low-rank layers of one network."""

    def __init__(
        self, network: nn.Module, *, rank: int, alpha: float | None, targets: Sequence[str], target: bool = False
    ) -> None:
        """Turn the layers that `targets` name into low-rank ones, in place; every other parameter is frozen.

        The difference is alpha / rank · up · down, alpha is the rank unless given. `target` keeps a second, slowly
        following set of factors. Errors: TrainingError for a target that names no layer, or a rank below 1 or above a
        layer's.
        """
        if rank < 1:
            raise TrainingError(f"a LoRA of rank {rank} learns nothing; 1 is the least")
        network.requires_grad_(False)
        self.switch = Switch()
        self.rank = rank
        self.scale = (rank if alpha is None else alpha) / rank
        self.layers: dict[str, LowRankLayer] = {}
        for name in chosen(network, targets):
            self.layers[name] = self._widen(name, network.get_submodule(name), target)

    def share(self, network: nn.Module) -> None:
        """Put these same factors into another network of the same architecture, with weights of its own (frozen)."""
        network.requires_grad_(False)
        for name, mine in self.layers.items():
            layer = network.get_submodule(name)
            layer.__class__ = type(mine)
            assert isinstance(layer, LowRankLayer)
            for attribute in ("down", "up", "target_down", "target_up", "scale", "switch", "thin"):
                setattr(layer, attribute, getattr(mine, attribute))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Down and up of each layer."""
        return [factor for layer in self.layers.values() for factor in (layer.down, layer.up)]

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """target = decay · target + (1 - decay) · own."""
        for layer in self.layers.values():
            for mine, other in ((layer.target_down, layer.down), (layer.target_up, layer.up)):
                if mine is not None:
                    mine.lerp_(other.detach(), 1 - decay)

    def target_state(self) -> dict[str, Tensor]:
        """The target's factors by layer."""
        state: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            if layer.target_up is not None and layer.target_down is not None:
                state[f"{name}.up"], state[f"{name}.down"] = layer.target_up, layer.target_down
        return state

    @torch.no_grad()
    def load_target_state(self, state: Mapping[str, Tensor]) -> None:
        """Take `target_state` back."""
        for name, tensor in self.target_state().items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def begin_with(self, deltas: Mapping[str, Delta]) -> None:
        """Take the factors of an adapter, by canonical layer name ("unet.…").

        Errors: TrainingError where it changes a layer that does not learn here, or is of a higher rank.
        """
        from laur.optimize.deltas import LowRank

        for name, delta in deltas.items():
            layer = self.layers.get(name.removeprefix("unet."))
            if layer is None:
                raise TrainingError(f"the adapter changes {name}, which is not among the targets; name its layer too")
            if not isinstance(delta, LowRank) or delta.rank > self.rank:
                what = f"has rank {delta.rank}" if isinstance(delta, LowRank) else "has no two factors"
                raise TrainingError(f"the adapter {what} at {name}; go on from one of rank {self.rank} at most")
            up = delta.up.flatten(1).to(layer.up) * (delta.scale / self.scale)
            down = delta.down.flatten(1).to(layer.down)
            # An optimiser's steps are of one size for both, so their elements must be too: files in 8 bits have factors
            # as large as E4M3 goes and an alpha of 1e-6, and one step of the small factor would be all there is.
            even = (_typical(down) / _typical(up)) ** 0.5 if up.any() and down.any() else 1.0
            layer.up[:, : delta.rank] = up * even
            layer.down[: delta.rank] = down / even
            if layer.target_up is not None and layer.target_down is not None:
                layer.target_up.copy_(layer.up)
                layer.target_down.copy_(layer.down)

    def deltas(self, weights: Mapping[str, Tensor]) -> dict[str, LowRank]:
        """By layer, with `weights` (by parameter name, "….up" and "….down") in place of the layers' own."""
        from laur.optimize.deltas import LowRank

        found: dict[str, LowRank] = {}
        for name, layer in self.layers.items():
            up, down = weights[f"{name}.up"].detach().cpu(), weights[f"{name}.down"].detach().cpu()
            shape = layer.weight.shape
            if len(shape) == 4:
                up, down = up[:, :, None, None], down.view(down.shape[0], *shape[1:])
            found[name] = LowRank(up.contiguous(), down.contiguous(), self.scale)
        return found

    def _widen(self, name: str, layer: nn.Module, target: bool) -> LowRankLayer:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        weight: Tensor = layer.weight
        out, inner = weight.shape[0], weight[0].numel()
        if not 1 <= self.rank <= min(out, inner):
            raise TrainingError(
                f"rank {self.rank} is above what {name} has ({out}x{inner}); take at most {min(out, inner)}, "
                "or leave that layer out of the targets"
            )
        layer.__class__ = LowRankLinear if isinstance(layer, nn.Linear) else LowRankConv2d  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(layer, LowRankLayer)
        down = torch.randn(self.rank, inner, device=weight.device, dtype=torch.float32)
        layer.down = nn.Parameter(down / math.sqrt(inner))
        layer.up = nn.Parameter(torch.zeros(out, self.rank, device=weight.device, dtype=torch.float32))
        layer.target_down = layer.down.detach().clone() if target else None
        layer.target_up = layer.up.detach().clone() if target else None
        layer.scale, layer.switch = self.scale, self.switch
        layer.thin = 3 * self.rank * (inner + out) < inner * out  # forward and both gradients, against the weight's
        return layer


def chosen(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear and convolutional layers that `targets` name. Errors: TrainingError."""
    names = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    ]
    found: dict[str, None] = {}
    for target in targets:
        patterns = GROUPS.get(target, (target,))
        hits = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
        if not hits and target not in GROUPS:
            raise TrainingError(f"target {target!r} names no layer; take a pattern or one of {', '.join(GROUPS)}")
        found.update(dict.fromkeys(hits))
    if not found:
        raise TrainingError(f"targets {', '.join(targets) or '()'} name no layer of this network")
    return [name for name in names if name in found]


def _typical(factor: Tensor) -> float:
    """The root mean square of its elements."""
    return float(factor.square().mean().sqrt())
