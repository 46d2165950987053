"""What the thread that owns an Engine tells the event loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from laur.core.recipe import Recipe
from laur.serve.job import Failure

if TYPE_CHECKING:
    from laur.pipeline.events import Progress
    from laur.render.picture import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Something about one job."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Told):
    """Its recipe can be drawn; it waits for `EngineThread.go`."""

    key: str
    """64 hexadecimal digits: the same for whatever gives the same pixels with the same words beside them."""
    recipe: Recipe
    """Filled in."""
    warnings: tuple[str, ...]
    began: float = 0.0
    """By `time.perf_counter`, as all times here."""
    ended: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Told):
    """Its adapters and texts are there; it takes part from the next step on."""

    began: float
    ended: float
    text: float
    """Seconds of that for its texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped(Told):
    """A denoising step is done."""

    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(Told):
    """The picture is finished."""

    picture: Picture
    began: float | None = None
    """When decoding began."""
    ended: float = 0.0
    notes: tuple[str, ...] = ()
    """What else to know of it, beside what was known when it was planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broke(Told):
    """It cannot be drawn, or not by this attempt."""

    failure: Failure
