"""AdamW, Muon for matrices, and how high the learning rate stands at an update."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from laur.train.config import OptimiserConfig

ENDS = ("conv_in", "conv_out", "time_embed", "time_embedding", "add_embedding", "class_embedding", "embed")
"""Modules at the network's ends: Muon is for what lies between them (Jordan et al., 2024; arXiv 2502.16982, 2.2)."""

ROOT_MEAN_SQUARE = 0.2
"""Of an AdamW update, which Muon's are scaled to, so that one learning rate fits both (arXiv 2502.16982, eq. 4)."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic whose fixed range holds 1 and whose slope at 0 is steep (Jordan et al., 2024)."""
ITERATIONS = 5


def factor(config: OptimiserConfig, update: int, done: float) -> float:
    """What the learning rate is multiplied with at `update`, from 0, when a part `done` (0..1) of the run is over."""
    rising = min(1.0, (update + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "constant":
        return rising
    return rising * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Optimisers:
    """The optimisers of one run over its parameters by name, with a state that is tensors by name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimiserConfig) -> None:
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        hidden = {n: p for n, p in parameters.items() if config.name == "muon" and is_hidden_matrix(n, p)}
        rest = {n: p for n, p in parameters.items() if n not in hidden}
        self._kinds: dict[str, Optimizer] = {}
        if hidden:
            self._kinds["muon"] = Muon(hidden.values(), config.lr, config.momentum, config.weight_decay)
        if rest:
            lr = config.rest_lr or config.lr if hidden or config.name == "muon" else config.lr
            self._kinds["adamw"] = _adamw(rest.values(), lr, config)
        self._highest = [float(group["lr"]) for group in self._groups()]

    def step(self, factor: float) -> float:
        """Move the weights along their gradients, at `factor` of the highest learning rate; returns the first one."""
        for group, highest in zip(self._groups(), self._highest, strict=True):
            group["lr"] = highest * factor
        for kind in self._kinds.values():
            kind.step()
        return self._highest[0] * factor

    def state_dict(self) -> dict[str, Any]:
        """By optimiser, by parameter name, its tensors."""
        return {
            kind: {self._names[id(parameter)]: dict(state) for parameter, state in optimiser.state.items()}
            for kind, optimiser in self._kinds.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for kind, optimiser in self._kinds.items():
            whole = optimiser.state_dict()
            order = [self._names[id(p)] for group in optimiser.param_groups for p in group["params"]]
            held = {i: dict(state[kind][name]) for i, name in enumerate(order) if name in state.get(kind, {})}
            # torch puts each tensor where its parameter is, but for the counts of steps
            optimiser.load_state_dict({"state": held, "param_groups": whole["param_groups"]})

    def _groups(self) -> list[dict[str, Any]]:
        """Asked for anew each time, as torch puts others in their place when a state is loaded."""
        return [group for kind in self._kinds.values() for group in kind.param_groups]


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes it: a matrix, or a convolution seen as one, that is not at the network's ends."""
    return parameter.ndim > 1 and not any(part in ENDS for part in name.split("."))


def _adamw(parameters: Iterable[nn.Parameter], lr: float, config: OptimiserConfig) -> Optimizer:
    """Decay is for matrices: pulled towards 0, a norm's scale or a bias would change what a layer does."""
    matrices, vectors = [], []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type == "cuda" for parameter in [*matrices, *vectors])
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=config.betas, fused=fused)


class Muon(Optimizer):
    """Momentum, orthogonalised: every direction of a matrix moves as far as any other.

    As arXiv 2502.16982, Algorithm 1 with Nesterov's momentum: U = orthogonal(g + mu m), W ← W - lr (0.2 √max(side) U +
    decay W). Convolutions (O, I, h, w) count as matrices (O, I·h·w). Matrices of one shape are orthogonalised together.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of all matrices that have a gradient."""
        del closure
        for group in self.param_groups:
            together: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    direction = self._momentum(parameter, group["momentum"]).reshape(len(parameter), -1)
                    together[direction.shape[0], direction.shape[1]].append((parameter, direction))
            for (rows, columns), members in together.items():
                updates = orthogonal(torch.stack([direction for _, direction in members]))
                scale = -group["lr"] * ROOT_MEAN_SQUARE * math.sqrt(max(rows, columns))
                for (parameter, _), update in zip(members, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.reshape(parameter.shape), alpha=scale)

    def _momentum(self, parameter: nn.Parameter, decay: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - decay)
        return gradient.lerp(state["momentum"], decay)


def orthogonal(matrices: Tensor) -> Tensor:
    """Of each (N, r, c) matrix nearly the nearest orthogonal one, U Vᵀ of its singular values' decomposition; float32.

    Five quintic Newton-Schulz iterations (Jordan et al., 2024), which take singular values into about 0.7..1.2. They
    bear bfloat16 and run in it where the device computes in it.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(_precision(matrices.device))
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()


def _precision(device: torch.device) -> torch.dtype:
    from laur.pipeline.device import cpu_has_bfloat16

    low = cpu_has_bfloat16() if device.type == "cpu" else device.type == "cuda"
    return torch.bfloat16 if low else torch.float32
