"""What consistency training has in common: which timesteps are drawn, distances, students and their slow targets."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from laur.core.errors import TrainingError
from laur.train.objective import Loss
from laur.train.objectives.lora import Lora
from laur.train.objectives.networks import Diffusion, predict

if TYPE_CHECKING:
    from laur.train.batch import Conditions
    from laur.train.draws import Draws

Distance = Literal["squared", "huber", "pseudo_huber", "norm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyOptions:
    """What distillation and fine-tuning share. Defaults are those that were stable where others collapsed."""

    skip: int = 50
    """k: timesteps between the two points of a path that shall agree."""
    distance: Distance = "squared"
    """squared, huber (per element, torch's, delta = `huber`), pseudo_huber sqrt(d² + c²) - c with c = `huber`, or norm,
    the same of a sample's root mean square: samples at all timesteps pull alike (arXiv 2310.14189, section 3.3)."""
    huber: float = 0.001
    """The width of the huber distances."""
    target_decay: float = 0.95
    """How slowly the target follows the student; 0 makes the student its own target."""
    boundary: float = 0.1
    """Part of the draws that lie within `skip` of the path's end, where the goal is known."""
    last: float = 0.08
    """Part of the draws at the last timestep, where every picture begins."""

    def __post_init__(self) -> None:
        within("skip", self.skip, 1, 500)
        within("target_decay", self.target_decay, 0, 1)
        within("boundary", self.boundary, 0, 1)
        within("last", self.last, 0, round(1 - self.boundary, 9))  # 1 - 0.9 is a little below 0.1
        if self.huber <= 0:
            raise TrainingError(f"huber is {self.huber}; it must be above 0")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two timesteps of each path, (B,)."""

    t: Tensor
    """The later one, with more noise."""
    earlier: Tensor
    """t - k, or 0 where that is below."""
    is_last: Tensor
    """bool: t < k, so that the path's end itself is the goal."""

    def rows(self, places: Tensor) -> Pair:
        """Those of some samples, by place (B',) int64."""
        return Pair(self.t[places], self.earlier[places], self.is_last[places])


def draw_pair(options: ConsistencyOptions, draws: Draws, timesteps: int) -> Pair:
    """Timesteps of arXiv 2310.04378, algorithm 1, drawn from the whole schedule rather than from every k-th."""
    k = options.skip
    if k >= timesteps:
        raise TrainingError(f"skip is {k}, but the model has {timesteps} timesteps; take fewer")
    kind = draws.uniform("kind of timestep")
    t = draws.integers("timestep", k, timesteps)
    near = draws.integers("timestep near the end", min(5, k - 1), k) if k > 1 else torch.zeros_like(t)
    t = torch.where(kind > 1 - options.last, torch.full_like(t, timesteps - 1), t)
    t = torch.where(kind < options.boundary, near, t)
    return Pair(t, (t - k).clamp(min=0), t < k)


class Distances(Protocol):
    """Options that name a distance."""

    @property
    def distance(self) -> Distance:
        """See ConsistencyOptions."""
        ...

    @property
    def huber(self) -> float:
        """Its width."""
        ...


def distance(options: Distances, a: Tensor, b: Tensor) -> Tensor:
    """Over everything but the batch, (B,)."""
    difference = (a - b).float()
    if options.distance == "norm":
        return (difference.square().flatten(1).mean(1) + options.huber**2).sqrt() - options.huber
    if options.distance == "squared":
        each = difference.square()
    elif options.distance == "huber":
        each = torch.nn.functional.huber_loss(a.float(), b.float(), reduction="none", delta=options.huber)
    else:
        each = (difference.square() + options.huber**2).sqrt() - options.huber
    return each.flatten(1).mean(1)


def leak(found: Tensor, z: Tensor, noise: Tensor, sigma: Tensor, *, pair: Pair, part: float) -> Tensor:
    """How much of the noise is left in f(x_t, t) near the path's end: 0 is none, 1 is all (f(x, t) = x).

    A mean over the batch that counts the boundary's draws alone, which are `part` of all, so that slices average to
    the whole.
    """
    if part <= 0:
        return torch.zeros((), device=z.device)
    each = ((found.detach() - z) * noise).flatten(1).mean(1) / sigma.flatten()
    return (each * pair.is_last).mean() / part


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a loss stands on besides the noised latents."""

    z: Tensor
    """(B, C, h, w), clean."""
    noise: Tensor
    """(B, C, h, w)."""
    pair: Pair
    conditions: Conditions
    w: Tensor
    """(B,)."""


class Networks(Protocol):
    """A student, its slow target, and where there is one the teacher."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def student(self, x: Tensor, t: Tensor, conditions: Conditions, w: Tensor | None) -> Tensor:
        """With gradients."""
        ...

    def target(self, x: Tensor, t: Tensor, conditions: Conditions, w: Tensor | None) -> Tensor:
        """Without."""
        ...

    def teacher(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Without."""
        ...

    def follow(self, decay: float) -> None:
        """Move the target."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The target's weights."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        ...


class LoraNetworks:
    """One network: the teacher is it without factors, the target has factors of its own."""

    def __init__(
        self, unet: nn.Module, *, rank: int, alpha: float | None, targets: Sequence[str], decay: float
    ) -> None:
        self.model = unet
        self._plain = unet  # the loop may wrap `model`
        self.lora = Lora(unet, rank=rank, alpha=alpha, targets=targets, target=decay > 0)

    def student(self, x: Tensor, t: Tensor, conditions: Conditions, w: Tensor | None) -> Tensor:
        """See Networks."""
        return predict(self.model, x, t, conditions, w)

    @torch.no_grad()
    def target(self, x: Tensor, t: Tensor, conditions: Conditions, w: Tensor | None) -> Tensor:
        """See Networks."""
        with self.lora.switch.to("target"):
            return predict(self._plain, x, t, conditions, w)

    @torch.no_grad()
    def teacher(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """See Networks."""
        with self.lora.switch.to("off"):
            return predict(self._plain, x, t, conditions)

    def follow(self, decay: float) -> None:
        """See Networks."""
        if decay > 0:
            self.lora.follow(decay)

    def state_dict(self) -> dict[str, Any]:
        """See Networks."""
        return dict(self.lora.target_state())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See Networks."""
        self.lora.load_target_state(state)


class WholeNetworks:
    """Student and target are networks of their own; so is the teacher, where there is one."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None, *, decay: float) -> None:
        self.model = student.requires_grad_(True)
        self._student = student
        self._teacher = None if teacher is None else teacher.requires_grad_(False)
        self._target = copy.deepcopy(student).requires_grad_(False) if decay > 0 else student

    def student(self, x: Tensor, t: Tensor, conditions: Conditions, w: Tensor | None) -> Tensor:
        """See Networks."""
        return predict(self.model, x, t, conditions, w)

    @torch.no_grad()
    def target(self, x: Tensor, t: Tensor, conditions: Conditions, w: Tensor | None) -> Tensor:
        """See Networks."""
        return predict(self._target, x, t, conditions, w)

    @torch.no_grad()
    def teacher(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """See Networks."""
        assert self._teacher is not None
        return predict(self._teacher, x, t, conditions)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """See Networks."""
        if self._target is not self._student:
            for mine, other in zip(self._target.parameters(), self._student.parameters(), strict=True):
                mine.lerp_(other.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """See Networks."""
        return {} if self._target is self._student else dict(self._target.named_parameters())

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See Networks."""
        if self._target is not self._student:
            for name, parameter in self._target.named_parameters():
                parameter.copy_(state[name])


class Consistent:
    """Base of the two objectives: the target follows after each update, and is what a state holds."""

    held_out = False
    inputs: Mapping[str, str] = MappingProxyType({})
    """Hashes of the files that its settings name, by setting."""
    stepwise: float = 1.0
    """Part of the samples that go by steps of k timesteps; the others have no boundary."""

    def __init__(self, networks: Networks, diffusion: Diffusion, options: ConsistencyOptions) -> None:
        self.networks = networks
        """Student, slow target, teacher."""
        self.model = networks.model
        self.diffusion = diffusion
        self.options = options

    def f(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The consistency function of a prediction."""
        return self.diffusion.consistency(prediction, x, t)

    @torch.no_grad()
    def ahead(self, pair: Pair, conditions: Conditions, w: Tensor, earlier: Tensor, end: Tensor) -> Tensor:
        """Goals of f(x, t), (B, C, h, w): f_target(earlier, t - k), and `end` itself where the path ends within k."""
        found = self.f(self.networks.target(earlier, pair.earlier, conditions, w), earlier, pair.earlier)
        return torch.where(pair.is_last[:, None, None, None], end, found)

    def disagreement(self, drawn: Drawn, x: Tensor, goal: Tensor) -> Loss:
        """d(f(x, t), goal), both (B, C, h, w): a mean over samples, with the leak beside it."""
        pair = drawn.pair
        found = self.f(self.networks.student(x, pair.t, drawn.conditions, drawn.w), x, pair.t)
        each = distance(self.options, found, goal)
        sigma = self.diffusion.levels(pair.t)[1]
        part = self.options.boundary * self.stepwise
        noise_left = leak(found, drawn.z, drawn.noise, sigma, pair=pair, part=part)
        return Loss(each.mean(), {"leak": noise_left})

    def updated(self, update: int) -> None:
        """The target follows."""
        del update
        self.networks.follow(self.options.target_decay)

    def state_dict(self) -> dict[str, Any]:
        """The target's weights."""
        return self.networks.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.networks.load_state_dict(state)


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise TrainingError unless low <= value <= high."""
    if not low <= value <= high:
        raise TrainingError(f"{name} is {value:g}; it lies in {low:g}..{high:g}")
