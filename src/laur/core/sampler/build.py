"""From a schedule and a wish to a sampler's table. Everything that cannot be sampled is refused here, in one line."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from laur.core.errors import CheckpointError, RecipeError
from laur.core.sampler import DEFAULT_ETA, ddim, dpm, euler, lcm, tcd
from laur.core.sampler.request import TableRequest
from laur.core.sampler.table import SamplerTable, StepCoefficients
from laur.core.schedule import NoiseSchedule

PREDICTIONS: tuple[str, ...] = ("epsilon", "v_prediction", "sample")
"""What a network may predict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampler:
    steps: Callable[[TableRequest], list[StepCoefficients]]
    custom_timesteps: bool = True
    original_inference_steps: bool = False


_SAMPLERS: dict[str, _Sampler] = {
    "lcm": _Sampler(steps=lcm.steps, original_inference_steps=True),
    "tcd": _Sampler(steps=tcd.steps, original_inference_steps=True),
    "ddim": _Sampler(steps=ddim.steps, custom_timesteps=False),
    "euler": _Sampler(steps=euler.steps),
    "dpm++2m": _Sampler(steps=dpm.steps),
}


def build_table(
    name: str,
    schedule: NoiseSchedule,
    *,
    prediction: str,
    steps: int,
    spacing: str = "leading",
    steps_offset: int = 1,
    set_alpha_to_one: bool = False,
    timesteps: Sequence[int] | None = None,
    original_inference_steps: int | None = None,
    eta: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """The table of sampler `name`, step by step what diffusers' scheduler of that name computes.

    Args:
        name: one of `SAMPLERS`.
        schedule: the noise schedule that the checkpoint was trained with.
        prediction: epsilon, v_prediction or sample.
        steps: number of steps; with `timesteps`, theirs.
        spacing: leading, trailing or linspace; `lcm` and `tcd` have their own and ignore it.
        steps_offset: added to leading timesteps.
        set_alpha_to_one: DDIM ends without noise, not at timestep 0.
        timesteps: custom timesteps, falling; not for `ddim`.
        original_inference_steps: `lcm` and `tcd`: steps of the teacher's schedule (50) that the few are picked from.
        eta: DDIM's eta, TCD's gamma, or the part of fresh noise that LCM ends with; None takes `DEFAULT_ETA`.
        strength: `lcm` and `tcd`: all steps lie in this lower part of the schedule (diffusers'
            `LCMScheduler.set_timesteps(strength=)`). `last_steps` is the other way to begin from a picture.

    Raises:
        RecipeError: values that do not go together or leave the schedule.
        CheckpointError: a prediction or spacing that cannot be sampled with this schedule.
    """
    if name not in _SAMPLERS:
        raise RecipeError(f"sampler {name!r} is unknown; choose one of {', '.join(_SAMPLERS)}")
    _check_prediction(prediction, schedule)
    request = TableRequest(
        schedule=schedule,
        prediction=prediction,
        steps=steps,
        spacing=spacing,
        steps_offset=steps_offset,
        set_alpha_to_one=set_alpha_to_one,
        timesteps=None if timesteps is None else tuple(timesteps),
        original_inference_steps=original_inference_steps,
        eta=DEFAULT_ETA.get(name, 0.0) if eta is None else eta,
        strength=strength,
    )
    _check_request(name, request, eta)
    table = tuple(_SAMPLERS[name].steps(request))
    scale = euler.initial_scale(request, table[0]) if name == "euler" else 1.0
    return SamplerTable(name=name, initial_scale=scale, steps=table)


def split_at(table: SamplerTable, schedule: NoiseSchedule, fraction: float) -> tuple[SamplerTable, SamplerTable]:
    """The steps before and after `fraction` of the schedule: an ensemble of experts, base then refiner.

    The cut is that of diffusers' `denoising_end` and `denoising_start`: the first part has the timesteps from
    T · (1 - fraction) up. Either part may be empty.
    """
    T = schedule.num_train_timesteps
    cutoff = round(T - fraction * T)
    count = sum(step.timestep >= cutoff for step in table.steps)
    return table.slice(0, count), table.slice(count, len(table.steps))


def last_steps(table: SamplerTable, strength: float) -> SamplerTable:
    """The last int(steps * strength) steps: what is drawn over a picture (image to image), as in diffusers.

    Raises RecipeError where that is none.
    """
    steps = len(table.steps)
    count = min(int(steps * strength), steps)
    if count < 1:
        cure = f"use at least {math.ceil(1 / strength)} steps, or more strength" if strength else "use more strength"
        raise RecipeError(f"strength {strength:g} leaves none of {steps} steps to draw; {cure}")
    return table.slice(steps - count, steps)


def _check_prediction(prediction: str, schedule: NoiseSchedule) -> None:
    if prediction not in PREDICTIONS:
        raise CheckpointError(f"prediction {prediction!r} is unknown; it must be one of {', '.join(PREDICTIONS)}")
    if prediction == "epsilon" and schedule.zero_terminal_snr:
        raise CheckpointError(
            "an epsilon prediction says nothing at zero terminal SNR, where the latent is pure noise; "
            "the checkpoint must predict v_prediction or sample, or not rescale its betas"
        )


def _check_request(name: str, request: TableRequest, eta: float | None) -> None:
    """Values that this sampler has no use for are refused, not ignored."""
    T, sampler = request.schedule.num_train_timesteps, _SAMPLERS[name]
    if not 1 <= request.steps <= T:
        raise RecipeError(f"steps is {request.steps}; this model's schedule takes from 1 to {T}")
    if not 0.0 <= request.eta <= 1.0:
        raise RecipeError(f"eta is {request.eta:g}; it must be from 0 to 1")
    if eta is not None and name not in DEFAULT_ETA:
        known = list(DEFAULT_ETA)
        raise RecipeError(f"sampler {name} has no eta; leave it out or use {', '.join(known[:-1])} or {known[-1]}")
    if request.strength < 1 and (request.timesteps is not None or not sampler.original_inference_steps):
        raise ValueError("only lcm and tcd, picking their own timesteps, have a strength")
    if request.original_inference_steps is not None and not sampler.original_inference_steps:
        raise RecipeError(f"sampler {name} has no original_inference_steps; leave them out or use lcm or tcd")
    if request.timesteps is not None:
        _check_timesteps(name, request.timesteps, request.steps, T)


def _check_timesteps(name: str, timesteps: tuple[int, ...], steps: int, T: int) -> None:
    if not _SAMPLERS[name].custom_timesteps:
        raise RecipeError(f"sampler {name} takes no custom timesteps; leave them out or use lcm, tcd, euler or dpm++2m")
    if len(timesteps) != steps:
        raise RecipeError(f"steps is {steps} but {len(timesteps)} timesteps are given; leave one out")
    if any(a <= b for a, b in pairwise(timesteps)):
        raise RecipeError(f"timesteps must fall, as in 999,759,499,259; got {reprlib.repr(timesteps)}")
    if not 0 <= timesteps[-1] <= timesteps[0] < T:
        raise RecipeError(f"timesteps must be from 0 to {T - 1}; got {reprlib.repr(timesteps)}")
