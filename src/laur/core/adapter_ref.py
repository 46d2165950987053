"""AdapterRef: an adapter in a Recipe, how much of it, and in which blocks, steps and places."""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from laur.core import checks
from laur.core.blocks import HIGHEST, LOWEST, BlockWeights
from laur.core.errors import RecipeError

CONTENT = re.compile(r"sha256:[0-9a-f]{64}")
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
_BLOCKS = re.compile(r"\s*[A-Za-z][\w.]*\s*=[^/\\]*")
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_PHASES = re.compile(rf"{_NUMBER}(?:@{_DECIMAL})?(?:,{_NUMBER}@{_DECIMAL})*")
_OPTIONAL = frozenset({"steps", "region", "words", "by_block", "phases"})
"""Left out where they say nothing: recipes are hashed as they were before there were these."""

Phases = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRef:
    """An adapter in a Recipe: a name, file or registered class, and how much of it."""

    name: str
    weight: float = 1.0
    """1 unless it is said: a card's weight holds where its style is asked for as `Recipe.style`."""
    sha256: str | None = None
    """Filled in when resolved; from then on the content is what counts."""
    steps: tuple[float, float] | None = None
    """The part of the run in which it acts, 0 … 1 from its first step to its last; None is all of it."""
    region: str | None = None
    """The part of the picture in which it acts: left, right, top, bottom, centre, a box x0,y0,x1,y1 in parts of the
    width and height, or a mask by content, sha256:HASH, white where it acts. Later ones lie over earlier ones."""
    words: str | None = None
    """What calls it in the prompt where it acts, filled in with `steps`, `phases` or `region`; otherwise the prompt
    has them."""
    by_block: Mapping[str, float] | None = None
    """Factors of `weight` by block (`laur.core.blocks` has the names); 1 in blocks that are not named."""
    phases: Phases | None = None
    """Factors of `weight` over the run: pairs of the part of the run from which one holds, and the factor. 0 before
    the first."""

    def __post_init__(self) -> None:
        checks.text("adapter's name", self.name)
        if not self.name:
            raise RecipeError("an adapter needs a name or a file; write NAME or NAME:WEIGHT")
        checks.number("adapter weight", self.weight, LOWEST, HIGHEST)
        object.__setattr__(self, "weight", float(self.weight))
        if self.sha256 is not None:
            checks.text("adapter's sha256", self.sha256)
        if self.steps is not None:
            object.__setattr__(self, "steps", _part_of_run(self.steps))
        if self.words is not None:
            checks.text("adapter's words", self.words)
        if self.region is not None:
            checks.text("adapter's region", self.region)
            box_of(self.region)
        if self.by_block is not None:
            object.__setattr__(self, "by_block", BlockWeights.of(self.by_block))
        if self.phases is not None:
            object.__setattr__(self, "phases", _phases(self.phases))
            if self.steps is not None:
                raise RecipeError(f"adapter {self.name} has both steps and phases; a phase of 0 says where it rests")

    @property
    def acts_everywhere(self) -> bool:
        """Whether it acts at every step and place, be it more or less."""
        return self.steps is None and self.region is None and self.phases is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values. What it acts on is left out where it is everything."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        if self.by_block is not None:
            values["by_block"] = dict(self.by_block)
        return {name: value for name, value in values.items() if value is not None or name not in _OPTIONAL}

    @classmethod
    def of(cls, item: Any) -> AdapterRef:
        """From one, from its text, or from its plain values. Raises RecipeError."""
        if isinstance(item, AdapterRef):
            return item
        if isinstance(item, str):
            return cls.parse(item)
        if isinstance(item, Mapping) and "name" in item:
            known = {entry.name for entry in dataclasses.fields(cls)}
            if set(item) <= known:  # pyright: ignore[reportUnknownArgumentType]
                return cls(**item)
        raise RecipeError(f"an adapter is NAME:WEIGHT or {{name, weight, sha256}}, not {reprlib.repr(item)}")

    @classmethod
    def parse(cls, text: str) -> AdapterRef:
        """From `NAME_OR_FILE[:WEIGHT][:BLOCKS][@WHERE]`.

        WEIGHT is a number, or several by parts of the run: `0.2,0.8@0.5` is 0.2 at first and 0.8 from half of it on.
        BLOCKS are factors such as `mid=0,up1=0.5`, or `lbw=…` of A1111's extension. WHERE is a region (`@left`,
        `@0,0,0.5,1`) or a part of the run (`@0..0.5`), or both.
        """
        found: dict[str, Any] = {}
        while (where := _AT.fullmatch(text)) is not None:
            text = where["name"]
            if where["region"] is not None:
                found["region"] = where["region"]
            else:
                found["steps"] = (float(where["begin"] or 0), float(where["end"] or 1))
        name, colon, tail = text.rpartition(":")
        if colon and name and _BLOCKS.fullmatch(tail):
            found["by_block"] = BlockWeights.parse(tail)
            text = name
            name, colon, tail = text.rpartition(":")
        if colon and name:
            try:
                return cls(name=name, weight=float(tail), **found)
            except ValueError:
                pass
            if _PHASES.fullmatch(tail):
                return cls(name=name, phases=_read_phases(tail), **found)
        return cls(name=text, **found)


def box_of(region: str) -> tuple[float, float, float, float] | None:
    """(x0, y0, x1, y1) of a region in parts of the width and height; None for a mask. Raises RecipeError."""
    if region in REGIONS:
        return REGIONS[region]
    if CONTENT.fullmatch(region):
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
    values = checks.items("the steps of an adapter", steps)
    if len(values) != 2:
        raise RecipeError(f"the steps of an adapter are two parts of the run, as in 0..0.5, not {reprlib.repr(steps)}")
    for value in values:
        checks.number("a part of the run", value, 0.0, 1.0)
    begin, end = map(float, values)
    if begin >= end:
        raise RecipeError(f"an adapter cannot act from {begin:g} to {end:g} of the run; the first must be less")
    return begin, end


def _phases(phases: Any) -> Phases:
    found: list[tuple[float, float]] = []
    for phase in checks.items("the phases of an adapter", phases):
        pair = checks.items("a phase of an adapter", phase)
        if len(pair) != 2:
            raise RecipeError(f"a phase is a part of the run and a weight, as in [0.5, 0.8], not {reprlib.repr(phase)}")
        checks.number("a part of the run", pair[0], 0.0, 1.0)
        checks.number("the weight of a phase", pair[1], LOWEST, HIGHEST)
        found.append((float(pair[0]), float(pair[1])))
    if not found or any(a >= b for (a, _), (b, _) in pairwise(found)) or found[-1][0] == 1:
        raise RecipeError(
            f"phases begin one after the other, from 0 to below 1 of the run; got {reprlib.repr(phases)}; "
            "write them as in ink:0.2,0.8@0.5"
        )
    return tuple(found)


def _read_phases(text: str) -> Phases:
    pairs = [part.partition("@") for part in text.split(",")]
    return _phases([(float(begin or 0), float(weight)) for weight, _, begin in pairs])
