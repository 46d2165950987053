"""Which timesteps a sampler visits, falling, as diffusers picks them (spacings: arXiv 2305.08891, table 2)."""

from __future__ import annotations

from itertools import pairwise

from laur.core.errors import CheckpointError, RecipeError
from laur.core.sampler.request import TableRequest

ORIGINAL_STEPS = 50
"""Steps of the teacher's schedule that published LCMs and TCD-LoRAs were distilled on."""


def whole(request: TableRequest) -> list[int]:
    """Whole timesteps for one-step samplers (DDIM)."""
    return [int(value) for value in _spaced(request, request.steps)]


def fractional(request: TableRequest) -> list[float]:
    """As `whole`, but linspace keeps its fractions, in float32 (Euler)."""
    if request.timesteps is not None:
        return [float(value) for value in request.timesteps]
    import numpy as np

    if request.spacing == "linspace":
        last = request.schedule.num_train_timesteps - 1
        return [float(value) for value in np.linspace(0, last, request.steps, dtype=np.float32)[::-1]]
    return [float(value) for value in _spaced(request, request.steps)]


def open_ended(request: TableRequest) -> list[int]:
    """Whole timesteps that leave timestep 0 out: one point more is spaced and the last dropped (DPM-Solver++)."""
    if request.timesteps is not None:
        return list(request.timesteps)
    if request.spacing == "trailing":
        return whole(request)
    return [int(value) for value in _spaced(request, request.steps + 1)[:-1]]


def distilled(request: TableRequest) -> list[int]:
    """Evenly spaced picks from the teacher's schedule (LCM and TCD).

    The teacher's schedule is k - 1, 2k - 1, … with k = T // original steps; with a strength below 1 only the lowest
    int(original steps * strength) of it are picked from.
    """
    if request.timesteps is not None:
        return list(request.timesteps)
    import numpy as np

    T = request.schedule.num_train_timesteps
    original = request.original_inference_steps or ORIGINAL_STEPS
    if original > T:
        raise RecipeError(f"original_inference_steps is {original}; the model was trained on {T} timesteps, take fewer")
    if request.steps > original:
        raise RecipeError(
            f"steps is {request.steps}, but they are picked from {original}; "
            "take fewer steps or more original_inference_steps"
        )
    left = int(original * request.strength)
    if request.steps > left:
        raise RecipeError(
            f"steps is {request.steps}, but strength {request.strength:g} leaves {left} of {original} to pick from; "
            "take fewer steps or more strength"
        )
    origin = np.arange(1, left + 1) * (T // original) - 1
    picks = np.floor(np.linspace(0, len(origin), request.steps, endpoint=False)).astype(np.int64)
    return [int(value) for value in origin[::-1][picks]]


def _spaced(request: TableRequest, count: int) -> list[float]:
    import numpy as np

    T = request.schedule.num_train_timesteps
    if request.spacing == "linspace":
        points = np.linspace(0, T - 1, count).round()[::-1]
    elif request.spacing == "leading":
        points = (np.arange(count) * (T // count))[::-1] + request.steps_offset
    elif request.spacing == "trailing":
        # for some counts (61 of 1000, say) rounding gives arange one value too many, below timestep 0: leave it out
        points = np.arange(T, 0, -T / count).round()[:count] - 1
    else:
        raise CheckpointError(
            f"timestep_spacing {request.spacing!r} is unknown; the scheduler must say leading, trailing or linspace"
        )
    timesteps = [float(value) for value in points]
    if not 0 <= timesteps[-1] <= timesteps[0] < T or any(a <= b for a, b in pairwise(timesteps)):
        raise RecipeError(
            f"{request.steps} steps with {request.spacing} spacing do not fit this model's {T} timesteps; take fewer"
        )
    return timesteps
