"""Recipe: a frozen, validated, serialisable wish for one picture.

What the user leaves open is None until `laur.pipeline.resolve` fills it in from the checkpoint and its adapters; the
filled Recipe is what is written into every file, so a changed default never changes an old recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from laur.core.adapter_ref import CONTENT, REGIONS, AdapterRef, box_of
from laur.core.checks import PROMPT_LIMIT, items, number, text
from laur.core.errors import RecipeError
from laur.core.sampler import SAMPLERS

__all__ = [
    "DEFAULT_CHECKPOINT",
    "PROMPT_LIMIT",
    "REGIONS",
    "SEED_LIMIT",
    "SIZE_LIMIT",
    "STEPS_LIMIT",
    "AdapterRef",
    "Recipe",
    "box_of",
]

DEFAULT_CHECKPOINT = "mini"
"""What an engine loads that is not told otherwise."""
SIZE_LIMIT = 16_384
STEPS_LIMIT = 1_000
SEED_LIMIT = 2**53
"""Seeds stay exact in JSON readers that know only float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A wish for one picture. Fields left None are chosen for the checkpoint and recorded."""

    prompt: str
    """With A1111's weight syntax: (word:1.3), [word], BREAK."""
    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    """The classifier-free scale g of uncond + g (cond - uncond); 1 is no guidance."""
    width: int | None = None
    """Pixels, 16 and up; drawn at the next multiple of 8 and cropped."""
    height: int | None = None
    sampler: str | None = None
    checkpoint: str | None = None
    """Embedded name, path or hub id; None is the engine's own."""
    checkpoint_sha256: str | None = None
    adapters: tuple[AdapterRef, ...] | None = None
    """None takes the checkpoint's own for the sampler; so does an open recipe whose adapters accelerate nothing. () is
    none at all. A filled recipe names every one, the style's among them."""
    style: str | None = None
    """A style's adapter by name or file; once filled, `adapters` holds it too, with its weight."""
    balance: str | None = None
    """"style" weighs styles against an accelerator so that both the look and what the prompt says are kept; the weights
    are written into `adapters` when the recipe is filled, and nothing is weighed twice."""
    clip_skip: int = 1
    guidance_rescale: float = 0.0
    timesteps: tuple[int, ...] | None = None
    """Custom timesteps, falling; then `steps` is their number."""
    original_inference_steps: int | None = None
    """LCM and TCD: the teacher's schedule that the few steps are picked from (50); the model's whole number of
    timesteps (1000) picks from all of them."""
    eta: float | None = None
    """DDIM's eta, TCD's gamma: 0 is deterministic. For LCM the share of fresh noise after its last but one step."""
    prediction: str | None = None
    """epsilon, v_prediction or sample, where the checkpoint's file cannot tell."""
    refiner: str | None = None
    """A second checkpoint that finishes the picture (SDXL refiner)."""
    refiner_sha256: str | None = None
    refiner_start: float | None = None
    """Fraction of the schedule after which the refiner takes over."""
    image: str | None = None
    """The picture to begin from (image to image), by content: sha256:HASH of its canonical pixels, as a PictureStore
    gives it (`laur.input.store`)."""
    strength: float | None = None
    """How much of the schedule is drawn over `image`: 1 is all of it, 0.3 stays close. As in diffusers the last
    int(steps * strength) steps are taken."""
    mask: str | None = None
    """What of `image` is drawn anew (inpainting): white is, black is kept. By content, as `image`."""
    mask_blur: float | None = None
    """Pixels of the picture over which the drawn part passes into the kept one, inside the mask."""
    paste_back: bool | None = None
    """Whether pixels outside the mask are the picture's own, exactly, or what the autoencoder makes of them."""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None or name in _REQUIRED:
                check(name.replace("_", " "), value)
        for name in _FLOATS:  # so that 2 and 2.0 have one hash
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))
        if self.adapters is not None:
            object.__setattr__(
                self, "adapters", tuple(AdapterRef.of(item) for item in items("adapters", self.adapters))
            )
        if self.timesteps is not None:
            object.__setattr__(self, "timesteps", _falling(tuple(items("timesteps", self.timesteps))))
            if self.steps is not None and self.steps != len(self.timesteps):
                raise RecipeError(f"steps is {self.steps} but {len(self.timesteps)} timesteps are given; leave one out")
        if self.mask is not None and self.image is None:
            raise RecipeError("a mask says what of a picture is drawn anew, and there is none; give the image too")

    def replace(self, **changes: Any) -> Recipe:
        """A copy with other values, validated again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON. Some open fields are left out, as recipes were hashed without them."""
        values = dataclasses.asdict(self)
        if self.adapters is not None:
            values["adapters"] = tuple(ref.to_dict() for ref in self.adapters)
        return {name: value for name, value in values.items() if value is not None or name not in _OPTIONAL}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """From plain values; unknown keys are refused with the nearest known name."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
                raise RecipeError(f"a recipe has no field {reprlib.repr(key)}{hint}")
        if "prompt" not in values:
            raise RecipeError("a recipe needs a prompt")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """From `to_json`'s form."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and deep nesting
            raise RecipeError(f"a recipe must be JSON; {error}") from None
        if not isinstance(values, dict):
            raise RecipeError(f"a recipe must be a JSON object, not {type(values).__name__}")
        return cls.from_dict(values)


def _between(low: float, high: float) -> Callable[[str, Any], None]:
    return lambda name, value: number(name, value, low, high)


def _whole(low: int, high: int) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise RecipeError(f"{name} must be a whole number from {low} to {high}, not {reprlib.repr(value)}")
        if not low <= value <= high:
            raise RecipeError(f"{name} is {reprlib.repr(value)}; it must be from {low} to {high}")

    return check


def _prompt(name: str, value: Any) -> None:
    text(name, value)
    if not value.strip():
        raise RecipeError("the prompt is empty; say what to draw, for example 'a red fox'")


def _named(name: str, value: Any) -> None:
    text(name, value)
    if not value.strip():
        raise RecipeError(f"the {name} is empty; name one or leave it out")


def _content(name: str, value: Any) -> None:
    if not isinstance(value, str) or not CONTENT.fullmatch(value):
        raise RecipeError(
            f"the {name} is named by its content, sha256:HASH with 64 hex digits, not {reprlib.repr(value)}; "
            f"give the file to the command line or a pipeline, or add it to a PictureStore"
        )


def _yes_or_no(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise RecipeError(f"{name} must be true or false, not {reprlib.repr(value)}")


def _one_of(*choices: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise RecipeError(f"{name} {reprlib.repr(value)} is unknown; choose one of {', '.join(choices)}")

    return check


def _falling(timesteps: tuple[int, ...]) -> tuple[int, ...]:
    for value in timesteps:
        _whole(0, 999_999)("a timestep", value)
    if not timesteps or any(a <= b for a, b in pairwise(timesteps)):
        raise RecipeError(f"timesteps must fall, as in 999,759,499,259; got {reprlib.repr(timesteps)}")
    return timesteps


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "prompt": _prompt,
    "negative_prompt": text,
    "seed": _whole(0, SEED_LIMIT),
    "steps": _whole(1, STEPS_LIMIT),
    "guidance": _between(0.0, 100.0),
    "width": _whole(16, SIZE_LIMIT),
    "height": _whole(16, SIZE_LIMIT),
    "sampler": _one_of(*SAMPLERS),
    "clip_skip": _whole(1, 12),
    "guidance_rescale": _between(0.0, 1.0),
    "original_inference_steps": _whole(1, STEPS_LIMIT),
    "eta": _between(0.0, 1.0),
    "prediction": _one_of("epsilon", "v_prediction", "sample"),
    "refiner_start": _between(0.01, 0.99),
    "checkpoint": _named,
    "checkpoint_sha256": _named,
    "style": _named,
    "balance": _one_of("style"),
    "refiner": _named,
    "refiner_sha256": _named,
    "image": _content,
    "strength": _between(0.0, 1.0),
    "mask": _content,
    "mask_blur": _between(0.0, 256.0),
    "paste_back": _yes_or_no,
}
_REQUIRED = {"prompt", "negative_prompt", "clip_skip", "guidance_rescale"}
_FLOATS = ("guidance", "guidance_rescale", "eta", "refiner_start", "strength", "mask_blur")
_OPTIONAL = frozenset({"balance", "image", "strength", "mask", "mask_blur", "paste_back"})
