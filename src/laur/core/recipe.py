"""Recipe: a frozen, validated, serialisable wish for one picture.

What the user leaves open is None until `laur.pipeline.resolve` fills it in from the checkpoint and its adapters; the
filled Recipe is what is written into every file, so a changed default never changes an old recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from laur.core.errors import RecipeError
from laur.core.sampler import SAMPLERS

DEFAULT_CHECKPOINT = "mini"
"""What an engine loads that is not told otherwise."""
PROMPT_LIMIT = 10_000
SIZE_LIMIT = 16_384
STEPS_LIMIT = 1_000
SEED_LIMIT = 2**53
"""Seeds stay exact in JSON readers that know only float64."""
_CONTENT = re.compile(r"sha256:[0-9a-f]{64}")
REGIONS = {
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0),
    "centre": (0.25, 0.25, 0.75, 0.75),
}
"""Regions that have a name, as x0, y0, x1, y1."""
_DECIMAL = r"(?:0?\.[0-9]+|[01](?:\.[0-9]*)?)"
_AT = re.compile(
    rf"(?P<name>.+)@(?:(?P<region>{'|'.join(REGIONS)}|{_DECIMAL}(?:,{_DECIMAL}){{3}}|sha256:[0-9a-f]{{64}})"
    rf"|(?P<begin>{_DECIMAL})?\.\.(?P<end>{_DECIMAL})?)"
)
_WHERE = frozenset({"steps", "region", "words"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRef:
    """An adapter in a Recipe: a name, file or registered class, and how much of it."""

    name: str
    weight: float = 1.0
    sha256: str | None = None
    """Filled in when resolved; from then on the content is what counts."""
    steps: tuple[float, float] | None = None
    """The part of the run in which it acts, 0 … 1 from its first step to its last; None is all of it."""
    region: str | None = None
    """The part of the picture in which it acts: left, right, top, bottom, centre, a box x0,y0,x1,y1 in parts of the
    width and height, or a mask by content, sha256:HASH, white where it acts. Later ones lie over earlier ones."""
    words: str | None = None
    """What calls it in the prompt where it acts, filled in with `steps` or `region`; otherwise the prompt has them."""

    def __post_init__(self) -> None:
        _text("adapter's name", self.name)
        if not self.name:
            raise RecipeError("an adapter needs a name or a file; write NAME or NAME:WEIGHT")
        _number("adapter weight", self.weight, -100.0, 100.0)
        object.__setattr__(self, "weight", float(self.weight))
        if self.sha256 is not None:
            _text("adapter's sha256", self.sha256)
        if self.steps is not None:
            object.__setattr__(self, "steps", _part_of_run(self.steps))
        if self.region is not None:
            box_of(self.region)

    @property
    def acts_everywhere(self) -> bool:
        """Whether it acts at every step and place."""
        return self.steps is None and self.region is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values. What it acts on is left out where it is everything, as recipes were hashed before."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None or name not in _WHERE}

    @classmethod
    def parse(cls, text: str) -> AdapterRef:
        """From `NAME_OR_FILE`, `NAME_OR_FILE:WEIGHT`, and either with `@WHERE` behind it.

        WHERE is a region (`@left`, `@0,0,0.5,1`) or a part of the run (`@0..0.5`), or both.
        """
        where: dict[str, Any] = {}
        while (found := _AT.fullmatch(text)) is not None:
            text = found["name"]
            if found["region"] is not None:
                where["region"] = found["region"]
            else:
                where["steps"] = (float(found["begin"] or 0), float(found["end"] or 1))
        name, colon, weight = text.rpartition(":")
        if colon and name:
            try:
                return cls(name=name, weight=float(weight), **where)
            except ValueError:
                pass
        return cls(name=text, **where)


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
    clip_skip: int = 1
    guidance_rescale: float = 0.0
    timesteps: tuple[int, ...] | None = None
    """Custom timesteps, falling; then `steps` is their number."""
    original_inference_steps: int | None = None
    """LCM and TCD: the teacher's schedule that the few steps are picked from (50); the model's whole number of
    timesteps (1000) picks from all of them."""
    eta: float | None = None
    """DDIM's eta, TCD's gamma: 0 is deterministic."""
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
            object.__setattr__(self, "adapters", tuple(_adapter(item) for item in _items("adapters", self.adapters)))
        if self.timesteps is not None:
            object.__setattr__(self, "timesteps", _falling(tuple(_items("timesteps", self.timesteps))))
            if self.steps is not None and self.steps != len(self.timesteps):
                raise RecipeError(f"steps is {self.steps} but {len(self.timesteps)} timesteps are given; leave one out")
        if self.mask is not None and self.image is None:
            raise RecipeError("a mask says what of a picture is drawn anew, and there is none; give the image too")

    def replace(self, **changes: Any) -> Recipe:
        """A copy with other values, validated again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON. Open fields of picture input are left out, as recipes were hashed without."""
        values = dataclasses.asdict(self)
        if self.adapters is not None:
            values["adapters"] = tuple(ref.to_dict() for ref in self.adapters)
        return {name: value for name, value in values.items() if value is not None or name not in _WITH_PICTURE}

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


def box_of(region: str) -> tuple[float, float, float, float] | None:
    """(x0, y0, x1, y1) of a region in parts of the width and height; None for a mask. Raises RecipeError."""
    if region in REGIONS:
        return REGIONS[region]
    if _CONTENT.fullmatch(region):
        return None
    try:
        x0, y0, x1, y1 = map(float, region.split(","))
    except ValueError:
        raise RecipeError(
            f"region {reprlib.repr(region)} is unknown; take {', '.join(REGIONS)}, a box x0,y0,x1,y1 in parts of the "
            "picture, or a mask by its content"
        ) from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise RecipeError(f"region {region} is no box; x0 < x1 and y0 < y1 lie from 0 to 1")
    return x0, y0, x1, y1


def _part_of_run(steps: Any) -> tuple[float, float]:
    values = _items("the steps of an adapter", steps)
    if len(values) != 2:
        raise RecipeError(f"the steps of an adapter are two parts of the run, as in 0..0.5, not {reprlib.repr(steps)}")
    for value in values:
        _number("a part of the run", value, 0.0, 1.0)
    begin, end = map(float, values)
    if begin >= end:
        raise RecipeError(f"an adapter cannot act from {begin:g} to {end:g} of the run; the first must be less")
    return begin, end


def _adapter(item: Any) -> AdapterRef:
    if isinstance(item, AdapterRef):
        return item
    if isinstance(item, str):
        return AdapterRef.parse(item)
    if isinstance(item, Mapping) and set(item) <= {"name", "weight", "sha256", *_WHERE} and "name" in item:
        return AdapterRef(**item)
    raise RecipeError(f"an adapter is NAME:WEIGHT or {{name, weight, sha256}}, not {reprlib.repr(item)}")


def _items(name: str, value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{name} must be a list, not {reprlib.repr(value)}")
    return value


def _number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(f"{name} must be a number from {low:g} to {high:g}, not {reprlib.repr(value)}")
    if not low <= value <= high:  # neither is NaN
        raise RecipeError(f"{name} is {reprlib.repr(value)}; it must be from {low:g} to {high:g}")


def _between(low: float, high: float) -> Callable[[str, Any], None]:
    return lambda name, value: _number(name, value, low, high)


def _whole(low: int, high: int) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise RecipeError(f"{name} must be a whole number from {low} to {high}, not {reprlib.repr(value)}")
        if not low <= value <= high:
            raise RecipeError(f"{name} is {reprlib.repr(value)}; it must be from {low} to {high}")

    return check


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise RecipeError(f"the {name} must be text, not {reprlib.repr(value)}")
    if len(value) > PROMPT_LIMIT:
        raise RecipeError(f"the {name} has {len(value):,} characters; at most {PROMPT_LIMIT:,} are read; shorten it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(
            f"the {name} holds a byte that is no text, at character {error.start + 1}; type it anew"
        ) from None


def _prompt(name: str, value: Any) -> None:
    _text(name, value)
    if not value.strip():
        raise RecipeError("the prompt is empty; say what to draw, for example 'a red fox'")


def _named(name: str, value: Any) -> None:
    _text(name, value)
    if not value.strip():
        raise RecipeError(f"the {name} is empty; name one or leave it out")


def _content(name: str, value: Any) -> None:
    if not isinstance(value, str) or not _CONTENT.fullmatch(value):
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
    "negative_prompt": _text,
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
_WITH_PICTURE = frozenset({"image", "strength", "mask", "mask_blur", "paste_back"})
