"""A style as a LoRA: the denoising loss on a few pictures, with optional losses that keep what the base knew, and that
keep the style when an accelerator draws in few steps.

Prior preservation is that of DreamBooth (arXiv 2208.12242, section 3.2): a second set, of pictures in no such style,
is learned beside the first, so that the adapter stays quiet where the style was not asked for.

What a checkpoint that was fine-tuned in the style predicts can be learned in place of the set's noise (distillation,
arXiv 1503.02531): its predictions are the means that noisy targets only have on average.

An accelerator's consistency function is learned as a regression on pairs: what it drew plainly from some noise is
known, and so is what the style's teacher makes of that, so f(x_T, T) of that same noise is pulled to it, and f(x_t, t)
on the way too. Pairs of noise and picture keep a seed's composition, which an average over all pictures of a caption
would not (as the couplings of rectified flow do: arXiv 2209.03003, section 2.2). With what was painted over its earlier
predictions too (`path`), the whole way is learned, each step from its own painting.

With a fine-tuned checkpoint and an accelerator, both are learned: what the fine-tune predicts, and what it predicts
with the accelerator in its weights, along the few steps that the student draws itself. What a low rank leaves out is
then left out where neither shows it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from laur.core.errors import TrainingError
from laur.core.sampler.build import build_table
from laur.core.sampler.timesteps import ORIGINAL_STEPS
from laur.train.batch import Batch, Conditions
from laur.train.objective import Loss
from laur.train.objectives.base import DenoisingOptions, denoising, draw_timesteps, snr_weight
from laur.train.objectives.consistency import Distance, distance, within
from laur.train.objectives.lora import Lora
from laur.train.objectives.networks import Diffusion, predict
from laur.train.objectives.prior import Prior
from laur.train.objectives.way import Way

if TYPE_CHECKING:
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.data.reader import TrainingSet
    from laur.train.draws import Draws


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleOptions(DenoisingOptions):
    """A LoRA from a small set."""

    rank: int = 16
    """Of the factors."""
    alpha: float | None = None
    """The difference is alpha / rank · up · down; the rank where it is not set."""
    targets: tuple[str, ...] = ("attention", "projection", "feed_forward", "conv")
    """Layers that learn: groups (attention, projection, feed_forward, conv, time) or patterns of names."""
    adapter: str = ""
    """A style's LoRA to go on from, by the style's name or a file, of this rank or a lower one; begin anew where
    empty."""
    teacher: str = ""
    """A checkpoint of the same architecture, fine-tuned in the style: its predictions are learned in place of the set's
    noise (distillation, arXiv 1503.02531); with `adapter`, a LoRA extracted from it is mended so. None where empty."""
    trigger_words: tuple[str, ...] = ()
    """Words of the captions that call the style; written into the file, so that prompts get them by themselves."""
    prior: str = ""
    """A prepared set of pictures that are not in the style, to keep what the base knows; none where empty."""
    prior_weight: float = 1.0
    """How much that counts."""
    accelerator: str = ""
    """An LCM-LoRA, by name or file, with which every other sample is learned; the set must hold pictures that the model
    drew itself with it (`laur data prepare own`), or there is a teacher, which then draws with it too. None where
    empty."""
    accelerator_steps: int = 4
    """With an accelerator and a teacher: steps of the way along which the two are held together."""
    accelerator_first: float = 0.35
    """Without a teacher: part of those samples that begin at the last timestep, with the noise that their picture was
    drawn from."""
    path: tuple[str, ...] = ()
    """With an accelerator: prepared sets of its predictions at each step before the last (`laur data prepare own
    --until 1`, …), painted as the run's set is; its samples then go that whole way, from their noise to the end."""
    distance: Distance = "squared"
    """Of what is learned with the accelerator; as the consistency tasks have it. Squares ask for means, pseudo_huber
    with a small width for medians, which keep edges."""
    huber: float = 0.1
    """The width of the huber distances."""
    coupled: float = 0.5
    """With an accelerator and no teacher: part of the other samples that are noised with the noise their picture was
    drawn from."""

    def __post_init__(self) -> None:
        DenoisingOptions.__post_init__(self)
        within("accelerator_first", self.accelerator_first, 0, 1)
        within("coupled", self.coupled, 0, 1)
        if self.huber <= 0:
            raise TrainingError(f"huber is {self.huber}; it must be above 0")
        if self.path and not self.accelerator:
            raise TrainingError("objective.path is an accelerator's; name it with objective.accelerator")
        within("accelerator_steps", self.accelerator_steps, 1, ORIGINAL_STEPS)
        if self.path and self.teacher:
            raise TrainingError("objective.path and objective.teacher are two ways to learn; leave one of them out")


class Style:
    """The objective."""

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        unet: nn.Module,
        diffusion: Diffusion,
        options: StyleOptions,
        *,
        prior: Prior | None = None,
        fast: nn.Module | None = None,
        way: Way | None = None,
        teacher: nn.Module | None = None,
        fast_teacher: nn.Module | None = None,
    ) -> None:
        """`fast`: the same network with the accelerator in its weights; `way`: what was painted over its steps;
        `teacher`: a network that predicts in the style; `fast_teacher`: that one with the accelerator too."""
        self.lora = Lora(unet, rank=options.rank, alpha=options.alpha, targets=options.targets)
        self.model = unet
        self._loaded, self._diffusion, self._options, self._prior = loaded, diffusion, options, prior
        self._fast, self._way = fast, way
        self._teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self._fast_teacher = None if fast_teacher is None else fast_teacher.requires_grad_(False).eval()
        self.needs_noise = fast is not None and teacher is None
        self._held_out = False
        self.inputs: Mapping[str, str] = {}
        """Hashes of the files that its settings name, by setting."""
        if fast is not None:
            self.lora.share(fast)

    @property
    def held_out(self) -> bool:
        """See Objective."""
        return self._held_out

    @held_out.setter
    def held_out(self, wanted: bool) -> None:
        self._held_out = wanted
        if wanted and self._prior is not None:
            self._prior.hold_out()

    @property
    def also_differentiated(self) -> tuple[nn.Module, ...]:
        """Networks beside `model` through which gradients reach its parameters."""
        return () if self._fast is None else (self._fast,)

    def fits(self, data: TrainingSet) -> None:
        """Errors: DataError where the run's set does not go with this."""
        if self._way is not None:
            self._way.fits(data)

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """Of the style's pictures, plus that of the prior's."""
        if self._fast is not None:
            style, parts = self._both(batch, draws)
        elif self._teacher is not None:
            style, parts = self._taught(batch, draws, torch.arange(len(batch.keys))).mean(), {}
        else:
            each, _ = denoising(self.model, self._diffusion, self._options, batch, draws)
            style, parts = each.mean(), {}
        if self._prior is None:
            return Loss(style, parts)
        kept, _ = denoising(self.model, self._diffusion, self._options, self._prior.batch(batch, draws), draws)
        total = style + self._options.prior_weight * kept.mean()
        return Loss(total, {**parts, "style": style.detach(), "prior": kept.detach().mean()})

    def _taught(self, batch: Batch, draws: Draws, rows: Tensor) -> Tensor:
        """(n,) against the teacher's predictions, at the same noise."""
        told, diffusion, z = _told(batch).rows(rows), self._diffusion, batch.latents[rows]
        t = self._timesteps(draws)[rows]
        x = diffusion.noised(z, draws.normal("noise", z.shape[1:])[rows], t)
        with torch.no_grad():
            wanted = predict(self._teacher, x, t, told)
        error = (predict(self.model, x, t, told) - wanted).square().flatten(1).mean(1)
        return error * snr_weight(self._options, diffusion, t)

    def _followed(self, batch: Batch, draws: Draws, rows: Tensor) -> Tensor:
        """(n,) of f(x, t), of student and teacher with the accelerator, at one step each of the way that the student
        draws itself from noise (on the learner's own states, as imitation learning has it: arXiv 1011.0686)."""
        told, levels = _told(batch).rows(rows), self._levels()
        shape = batch.latents.shape[1:]
        step = draws.integers("step", 0, len(levels))[rows]
        t = torch.tensor(levels, device=rows.device)[step]
        x = draws.normal("noise of step 0", shape)[rows]
        with torch.no_grad():
            for number, level in enumerate(levels[:-1]):
                on = (step > number).nonzero().flatten()
                if not len(on):
                    break
                at, after = (torch.full_like(on, timestep) for timestep in (level, levels[number + 1]))
                found = self._f(self._fast, x[on], at, told.rows(on))
                noise = draws.normal(f"noise of step {number + 1}", shape)[rows[on]]
                x = x.index_put((on,), self._diffusion.noised(found, noise, after))
            wanted = self._f(self._fast_teacher, x, t, told)
        return distance(self._options, self._f(self._fast, x, t, told), wanted)

    def _levels(self) -> list[int]:
        """The timesteps of LCM's sampler, falling."""
        info = self._loaded.info
        steps = self._options.accelerator_steps
        return [
            int(step.timestep)
            for step in build_table("lcm", info.schedule, prediction=info.prediction, steps=steps).steps
        ]

    def _both(self, batch: Batch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Odd samples plainly, even ones with the accelerator. A mean over all of them, and its two parts."""
        even = (batch.keys % 2 == 0).to(batch.latents.device)
        each = torch.zeros(len(even), device=even.device)
        fast, plain = (self._accelerated, self._plain) if self._teacher is None else (self._followed, self._taught)
        for mask, losses in ((even, fast), (~even, plain)):
            rows = mask.nonzero().flatten()
            if len(rows):
                each = each.index_put((rows,), losses(batch, draws, rows))
        whole = each.detach()
        return each.mean(), {"accelerated": 2 * (whole * even).mean(), "plain": 2 * (whole * ~even).mean()}

    def _plain(self, batch: Batch, draws: Draws, rows: Tensor) -> Tensor:
        """(n,) denoising, some with the noise that their picture was drawn from."""
        told, began, diffusion = _told(batch), _began(batch), self._diffusion
        z, t = batch.latents[rows], self._timesteps(draws)[rows]
        coupled = draws.uniform("kind of noise")[rows] < self._options.coupled
        noise = draws.normal("noise", z.shape[1:])[rows]
        noise = torch.where(_wide(coupled), began[rows], noise)
        said = predict(self.model, diffusion.noised(z, noise, t), t, told.rows(rows))
        error = (said - diffusion.target(z, noise, t)).square().flatten(1).mean(1)
        return error * snr_weight(self._options, diffusion, t)

    def _accelerated(self, batch: Batch, draws: Draws, rows: Tensor) -> Tensor:
        """(n,) of f(x, t) against the painting: along the whole way, or at one timestep."""
        if self._way is None:
            return self._one_step(batch, draws, rows)
        names = [batch.names[row] for row in rows.tolist()]
        known = self._way.knows(names).to(rows.device)
        each = torch.zeros(len(rows), device=rows.device)
        if bool((~known).any()):
            each = each.index_put(((~known).nonzero().flatten(),), self._one_step(batch, draws, rows[~known]))
        if bool(known.any()):
            some = known.nonzero().flatten()
            found = self._along(batch, rows[some], [names[place] for place in some.tolist()], self._way)
            each = each.index_put((some,), found)
        return each

    def _one_step(self, batch: Batch, draws: Draws, rows: Tensor) -> Tensor:
        z, began, diffusion = batch.latents[rows], _began(batch)[rows], self._diffusion
        first = draws.uniform("kind of noise")[rows] < self._options.accelerator_first
        t = draws.integers("timestep", 0, diffusion.timesteps)[rows]
        t = torch.where(first, torch.full_like(t, diffusion.timesteps - 1), t)
        # what sampling begins with holds no picture; at the last timestep of most schedules x_t does, faintly, and what
        # is learned from that trace (the colours) is missing when a picture is drawn
        anew = diffusion.noised(z, draws.normal("noise", z.shape[1:])[rows], t)
        x = torch.where(_wide(first), began, anew)
        return distance(self._options, self._clean(x, t, batch, rows), z)

    def _along(self, batch: Batch, rows: Tensor, names: list[str], way: Way) -> Tensor:
        """The mean over the steps. Each begins where the last prediction led, so the adapter learns to go on from what
        it draws itself, and to mend it (as imitation learning on the learner's own states does: arXiv 1011.0686)."""
        z, x = batch.latents[rows], _began(batch)[rows]
        total = torch.zeros(len(rows), device=z.device)
        for number, timestep in enumerate(way.timesteps.tolist()):
            t = torch.full((len(rows),), timestep, device=z.device)
            if number:
                x = self._diffusion.noised(x, way.noise(names, number, z), t)
            found = self._clean(x, t, batch, rows)
            total = total + distance(self._options, found, way.painted(names, number, z))
            x = found.detach()
        return total / len(way.timesteps)

    def _clean(self, x: Tensor, t: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """f(x, t) with the accelerator."""
        return self._f(self._fast, x, t, _told(batch).rows(rows))

    def _f(self, unet: nn.Module | None, x: Tensor, t: Tensor, told: Conditions) -> Tensor:
        return self._diffusion.consistency(predict(unet, x, t, told), x, t)

    def _timesteps(self, draws: Draws) -> Tensor:
        return draw_timesteps(self._options, draws, self._diffusion.timesteps)

    def updated(self, update: int) -> None:
        """Nothing follows."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the factors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing but the factors."""

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Path:
        """An adapter's file."""
        from laur.train.objectives import export

        return export.adapter(
            self.lora.deltas(weights),
            folder,
            self._loaded,
            task="style",
            trigger_words=self._options.trigger_words,
            held_out=self.held_out,
            device=self._diffusion.device,
        )


def _told(batch: Batch) -> Conditions:
    assert batch.conditions is not None
    return batch.conditions


def _began(batch: Batch) -> Tensor:
    assert batch.noise is not None
    return batch.noise


def _wide(rows: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return rows[:, None, None, None]


def build(options: StyleOptions, loaded: LoadedCheckpoint, device: torch.device) -> Style:
    """Errors: TrainingError, DataError."""
    from laur.optimize.catalogue import find
    from laur.optimize.merge import layer_shapes
    from laur.style.lookup import form_of, is_style
    from laur.train.objectives.lcf import merge
    from laur.train.objectives.lcm import fresh

    if loaded.info.is_lcm:
        raise TrainingError(f"{loaded.info.name} is an LCM; train the style on its base, or fine-tune it with lcf")
    inputs: dict[str, str] = {}
    prior, fast, way = None, None, None
    if options.prior:
        prior = Prior(options.prior, loaded, device)
        inputs["objective.prior"] = prior.key
    if options.accelerator:
        fast = fresh(loaded, device)
        inputs["objective.accelerator"] = merge(fast, options.accelerator)
    if options.path:
        way = Way(options.path)
        inputs["objective.path"] = way.key
    teacher, fast_teacher = None, None
    if options.teacher:
        teacher, inputs["objective.teacher"] = _teacher(options.teacher, loaded, device)
        if options.accelerator:
            fast_teacher = copy.deepcopy(teacher)
            merge(fast_teacher, options.accelerator)
    style = Style(
        loaded,
        fresh(loaded, device),
        Diffusion(loaded.info, device),
        options,
        prior=prior,
        fast=fast,
        way=way,
        teacher=teacher,
        fast_teacher=fast_teacher,
    )
    if options.adapter:
        name = options.adapter
        if is_style(name) and (file := form_of(name, loaded.info.family).file) is not None:
            name = str(file)
        begun = find(name)
        style.lora.begin_with(begun.deltas(layer_shapes(style.model, "unet")))
        inputs["objective.adapter"] = begun.sha256
    style.inputs = inputs
    return style


def _teacher(name: str, loaded: LoadedCheckpoint, device: torch.device) -> tuple[nn.Module, str]:
    """Its network and its hash. Errors: TrainingError where it is not of the student's kind, those of loading."""
    from laur.pipeline.loading.load import load
    from laur.train.objectives.lcm import fresh

    found = load(name)
    network = fresh(found, device)
    theirs, ours = network.state_dict(), loaded.unet().state_dict()
    same = theirs.keys() == ours.keys() and all(theirs[key].shape == tensor.shape for key, tensor in ours.items())
    if not same or found.info.prediction != loaded.info.prediction:
        raise TrainingError(
            f"the teacher {name} is not of {loaded.info.name}'s kind (layers, widths or prediction differ); "
            "give a fine-tune of the same base"
        )
    return network, found.info.sha256
