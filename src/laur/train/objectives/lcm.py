"""Latent consistency distillation, whole (arXiv 2310.04378, algorithm 1) and as a LoRA (arXiv 2311.05556).

For x_t of a picture, the guided teacher takes one DDIM step of k timesteps to x_{t-k}; the student's f(x_t, t) is
pulled to the target's f(x_{t-k}, t - k). The paper's w is added to the conditional prediction,

    teacher = cond + w (cond - uncond),        so that g = w + 1 in the usual classifier-free scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laur.core.errors import TrainingError
from laur.train.batch import Conditions
from laur.train.draws import Draws
from laur.train.objective import Loss
from laur.train.objectives.consistency import (
    ConsistencyOptions,
    Consistent,
    Drawn,
    LoraNetworks,
    Pair,
    WholeNetworks,
    draw_pair,
    within,
)
from laur.train.objectives.networks import Diffusion
from laur.train.objectives.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.batch import Batch

EMBEDDING_WIDTH = 256
"""time_cond_proj_dim of published LCMs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationOptions(ConsistencyOptions):
    """What both have."""

    own: float = 0.0
    """Part of the samples whose clean latent the slow target draws itself, from pure noise, in the steps that lead to
    the drawn timestep, in place of a picture of the set: then f learns where sampling takes it."""
    ends: float = 0.0
    """Part of the samples that go from pure noise straight to the picture that the teacher drew from it: the whole path
    at once, where k timesteps at a time pass on a first step's errors (arXiv 2101.02388). Needs a set that the teacher
    drew: `laur data prepare own --guidance G`."""
    paths: float = 0.0
    """Part of the samples that begin from the target's own latents, as with `own`, and go where the teacher's whole
    path leads from there, in place of one step of it (backward distillation, arXiv 2405.05224). The teacher
    draws each to its end, which is most of the work."""
    path_steps: int = 12
    """Steps of the teacher over the whole schedule, by DPM-Solver++ (2M)."""

    def __post_init__(self) -> None:
        ConsistencyOptions.__post_init__(self)
        within("own", self.own, 0, 1)
        within("ends", self.ends, 0, 1)
        within("paths", self.paths, 0, 1)
        within("path_steps", self.path_steps, 1, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class LcmOptions(DistillationOptions):
    """A whole LCM that is told its guidance."""

    w_min: float = 2.0
    """Smallest guidance that is distilled, as the paper counts it (g - 1)."""
    w_max: float = 14.0
    """Largest."""

    def __post_init__(self) -> None:
        DistillationOptions.__post_init__(self)
        check_guidance(self.w_min, self.w_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class LcmLoraOptions(DistillationOptions):
    """An LCM-LoRA: the guidance is distilled in and not told."""

    w_min: float = 2.5
    """Smallest guidance that is distilled, as the paper counts it (g - 1)."""
    w_max: float = 3.5
    """Largest; a narrow range, as the adapter cannot be told where in it to draw."""
    rank: int = 64
    """Of the factors."""
    alpha: float | None = None
    """The difference is alpha / rank · up · down; the rank where it is not set."""
    targets: tuple[str, ...] = ("attention", "projection", "feed_forward", "conv", "time")
    """Layers that learn: groups (attention, projection, feed_forward, conv, time) or patterns of names."""
    adapter: str = ""
    """An LCM-LoRA to go on from, by name or file, of this rank or a lower one; begin anew where empty."""

    def __post_init__(self) -> None:
        DistillationOptions.__post_init__(self)
        check_guidance(self.w_min, self.w_max)


OWN_STEPS = 4
"""Sampling steps over the whole schedule that a clean latent of the student's own stands on."""


@torch.no_grad()
def own_latents(
    consistent: Consistent, conditions: Conditions, draws: Draws, t: Tensor, *, w: Tensor, shape: Sequence[int]
) -> Tensor:
    """Clean latents (B, C, h, w) that the slow target itself draws from noise, on the way down to timesteps t (B,).

    The backward simulation of arXiv 2405.14867 (section 4.5): f of pure noise, then noised and denoised again at the
    timesteps of a sampler of `OWN_STEPS` steps for as long as they lie above t. At inference x_t is made of such
    latents, which are not those of the pictures that were learned from.
    """
    diffusion = consistent.diffusion
    grid = [diffusion.timesteps - 1 - i * diffusion.timesteps // OWN_STEPS for i in range(OWN_STEPS)]
    found = torch.zeros(len(t), *shape, device=t.device)
    for step, level in enumerate(grid):
        rows = torch.nonzero(t < level if step else t >= 0).flatten()
        if not len(rows):
            break
        at = torch.full((len(rows),), level, device=t.device)
        noise = draws.normal(f"noise of step {step}", shape)[rows]
        x = diffusion.noised(found[rows], noise, at)
        told = conditions.rows(rows)
        found[rows] = consistent.f(consistent.networks.target(x, at, told, w[rows]), x, at)
    return found


def check_guidance(low: float, high: float) -> None:
    """Raise TrainingError where w_min..w_max is no range."""
    if not 0 <= low <= high <= 100 or not math.isfinite(high):
        raise TrainingError(f"guidance w runs from {low:g} to {high:g}; take 0 <= w_min <= w_max <= 100")


class Distillation(Consistent):
    """The objective of both."""

    networks: LoraNetworks | WholeNetworks
    options: LcmOptions | LcmLoraOptions
    empty: Conditions | None = None
    """The unconditional input, one row; encoded before the first loss."""
    paths_of: tuple[float, float] | None
    """Smallest and largest guidance with which a teacher may have drawn the set; None where none need have."""

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        networks: LoraNetworks | WholeNetworks,
        diffusion: Diffusion,
        options: LcmOptions | LcmLoraOptions,
    ) -> None:
        super().__init__(networks, diffusion, options)
        self._loaded = loaded
        self.stepwise = (1 - options.ends) * (1 - options.paths)
        self._paths = Paths(loaded.info, options.path_steps)
        self.paths_of = (options.w_min + 1, options.w_max + 1) if options.ends > 0 else None

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """Algorithm 1, with a tenth of the draws at the boundary; of the samples that `ends` and `paths` take, none of
        it but the distance from f of where they begin to where the teacher ends."""
        conditions = batch.conditions
        assert conditions is not None
        options, diffusion = self.options, self.diffusion
        pair = draw_pair(options, draws, diffusion.timesteps)
        noise = draws.normal("noise", batch.latents.shape[1:])
        w = options.w_min + (options.w_max - options.w_min) * draws.uniform("guidance")
        drawn = Drawn(batch.latents, noise, pair, conditions, w)
        at_once = draws.uniform("whose path") < options.ends
        along = (draws.uniform("whose end") < options.paths) & ~at_once
        if not (at_once | along).any():
            x, goal, drawn = self._step(drawn, draws)
            return self.disagreement(drawn, x, goal)
        return self._mixed(drawn, draws, batch, at_once=at_once, along=along)

    def _mixed(self, drawn: Drawn, draws: Draws, batch: Batch, *, at_once: Tensor, along: Tensor) -> Loss:
        """Samples (B,) bool at once or along the teacher's path, the others by a step of the teacher."""
        pair, w, t = drawn.pair, drawn.w.clone(), drawn.pair.t.clone()
        x, goal, clean = drawn.noise.clone(), drawn.z.clone(), drawn.z.clone()
        if at_once.any():
            assert batch.noise is not None
            assert batch.guidance is not None
            x[at_once], t[at_once], w[at_once] = batch.noise[at_once], self.diffusion.timesteps - 1, batch.guidance - 1
        stepwise = ~at_once & ~along
        for mask, begin in ((along, self._along), (stepwise, self._step)):
            rows = torch.nonzero(mask).flatten()
            if len(rows):
                told = drawn.conditions.rows(rows)
                some = Drawn(drawn.z[rows], drawn.noise[rows], pair.rows(rows), told, w[rows])
                x[rows], goal[rows], found = begin(some, Draws(draws.seed, draws.keys[rows], draws.device))
                clean[rows] = found.z
        mixed = Pair(t, pair.earlier, pair.is_last & stepwise)
        return self.disagreement(Drawn(clean, drawn.noise, mixed, drawn.conditions, w), x, goal)

    def _along(self, drawn: Drawn, draws: Draws) -> tuple[Tensor, Tensor, Drawn]:
        """x_t of the target's own latents, where the teacher draws it to, and those latents."""
        pair, conditions, w = drawn.pair, drawn.conditions, drawn.w
        z = own_latents(self, conditions, draws, pair.t, w=w, shape=drawn.z.shape[1:])
        x = self.diffusion.noised(z, drawn.noise, pair.t)

        def say(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            return self._guided(x, t, conditions.rows(rows), w[rows])

        return x, self._paths.ends(say, x, pair.t), Drawn(z, drawn.noise, pair, conditions, w)

    def _step(self, drawn: Drawn, draws: Draws) -> tuple[Tensor, Tensor, Drawn]:
        """x_t, the goal of f there after one step of the guided teacher, and what x_t was made of."""
        pair, conditions, w, diffusion = drawn.pair, drawn.conditions, drawn.w, self.diffusion
        z = self._clean(drawn.z, conditions, draws, pair.t, w)
        x = diffusion.noised(z, drawn.noise, pair.t)
        with torch.no_grad():
            x0, eps = diffusion.split(self._guided(x, pair.t, conditions, w), x, pair.t)
            goal = self.ahead(pair, conditions, w, diffusion.ddim(x0, eps, pair.earlier), end=x0)
        return x, goal, Drawn(z, drawn.noise, pair, conditions, w)

    def _clean(self, z: Tensor, conditions: Conditions, draws: Draws, t: Tensor, w: Tensor) -> Tensor:
        """z (B, C, h, w), in the part that `own` says drawn by the target."""
        rows = torch.nonzero(draws.uniform("whose picture") < self.options.own).flatten()
        if not len(rows):
            return z
        found = z.clone()
        some = Draws(draws.seed, draws.keys[rows], draws.device)
        found[rows] = own_latents(self, conditions.rows(rows), some, t[rows], w=w[rows], shape=z.shape[1:])
        return found

    def _guided(self, x: Tensor, t: Tensor, conditions: Conditions, w: Tensor) -> Tensor:
        """cond + w (cond - uncond), in one call of twice the rows."""
        empty = conditions.where(torch.ones(len(x), dtype=torch.bool, device=x.device), self._empty(x.device))
        both = Conditions(
            torch.cat([conditions.context, empty.context]),
            _joined(conditions.context_mask, empty.context_mask),
            _joined(conditions.pooled, empty.pooled),
            _joined(conditions.size_ids, empty.size_ids),
        )
        cond, uncond = self.networks.teacher(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return cond + w[:, None, None, None] * (cond - uncond)

    def _empty(self, device: torch.device) -> Conditions:
        if self.empty is None:
            from laur.train.conditions import unconditional

            self.empty = unconditional(self._loaded, device)
        return self.empty

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Path:
        """An adapter's file, or a checkpoint's folder."""
        from laur.train.objectives import export

        if isinstance(self.networks, LoraNetworks):
            deltas, device = self.networks.lora.deltas(weights), self.diffusion.device
            return export.adapter(
                deltas,
                folder,
                self._loaded,
                task="lcm-lora",
                accelerates=True,
                held_out=self.held_out,
                device=device,
            )
        network = self.networks.model
        return export.checkpoint(network, weights, folder, self._loaded, task="lcm", held_out=self.held_out)


def build_lora(options: LcmLoraOptions, loaded: LoadedCheckpoint, device: torch.device) -> Distillation:
    """LCM-LoRA: nothing but factors beside one set of base weights."""
    if loaded.info.is_lcm:
        raise TrainingError(f"{loaded.info.name} is an LCM already; distil its base, or fine-tune it with lcf")
    unet = fresh(loaded, device)
    networks = LoraNetworks(
        unet, rank=options.rank, alpha=options.alpha, targets=options.targets, decay=options.target_decay
    )
    objective = Distillation(loaded, networks, Diffusion(loaded.info, device), options)
    if options.adapter:
        from laur.optimize.catalogue import find
        from laur.optimize.merge import layer_shapes

        begun = find(options.adapter)
        networks.lora.begin_with(begun.deltas(layer_shapes(unet, "unet")))
        objective.inputs = {"objective.adapter": begun.sha256}
    return objective


def build(options: LcmOptions, loaded: LoadedCheckpoint, device: torch.device) -> Distillation:
    """A whole LCM: the student grows an input for w, which begins at zero."""
    if loaded.info.is_lcm:
        raise TrainingError(f"{loaded.info.name} is an LCM already; distil its base, or fine-tune it with lcf")
    teacher = fresh(loaded, device)
    networks = WholeNetworks(with_guidance_embedding(teacher), teacher, decay=options.target_decay)
    return Distillation(loaded, networks, Diffusion(loaded.info, device), options)


def with_guidance_embedding(unet: Any) -> Any:
    """A copy that is told w and at first does not listen."""
    # diffusers lists there which values to take from its own defaults whatever the config says
    kept = {key: value for key, value in unet.config.items() if key != "_use_default_values"}
    config = {**kept, "time_cond_proj_dim": EMBEDDING_WIDTH}
    student = type(unet).from_config(config)
    missing, unexpected = student.load_state_dict(unet.state_dict(), strict=False)
    grown = {"time_embedding.cond_proj.weight"}
    if unexpected or set(missing) != grown:
        raise TrainingError(f"this network cannot be told a guidance: {sorted({*missing, *unexpected} - grown)}")
    torch.nn.init.zeros_(student.time_embedding.cond_proj.weight)
    parameter = next(unet.parameters())
    return student.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)


def fresh(loaded: LoadedCheckpoint, device: torch.device) -> Any:
    """A float32 copy of the checkpoint's network that may be written to, channels last."""
    import copy

    unet = copy.deepcopy(loaded.unet())
    # nn.Module's own: diffusers' warns of a cast that here is just what is wanted
    return torch.nn.Module.to(unet, device, torch.float32).to(memory_format=torch.channels_last).eval()


def _joined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.cat([a, b])
