"""The one typed stream that an Engine emits: progress, previews, pictures, cancellations, failures."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from laur.core.errors import LaurError
    from laur.core.plan import Plan
    from laur.core.pytorch.preview import LatentToRGB
    from laur.core.recipe import Recipe
    from laur.render.picture import Picture


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A place in an Engine. Compared by identity."""

    number: int
    """Counts up from 1 in each Engine."""
    plan: Plan = field(repr=False)
    recipe: Recipe = field(repr=False)
    owner: Hashable = None
    """Who shares the Engine with whom, see `laur.pipeline.sharing`."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a denoiser. Compared by identity."""

    began: float
    """By `time.perf_counter`."""
    ended: float
    rows: int
    full: int
    """The most rows that a call of this size may have."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something that happened to one ticket."""

    ticket: Ticket
    at: float = field(default_factory=time.perf_counter, kw_only=True, repr=False)
    """When, by `time.perf_counter`."""


@dataclass(frozen=True, slots=True, eq=False)
class Admitted(Event):
    """The ticket takes part from the next step on."""

    began: float | None = field(default=None, repr=False)
    """When what it needs was begun to be fetched, by `time.perf_counter`."""
    text: float = field(default=0.0, repr=False)
    """Seconds of that which encoding its texts took."""


@dataclass(frozen=True, slots=True, eq=False)
class Progress(Event):
    """One denoising step is done."""

    step: int
    """1 … steps."""
    steps: int
    x0: Tensor = field(repr=False)
    """(C, h, w) float32, the picture as predicted at this step."""
    rgb: LatentToRGB | None = field(default=None, repr=False)
    call: Call | None = field(default=None, repr=False)
    """What moved it: the same object for all that moved together."""

    def preview(self) -> np.ndarray | None:
        """(h, w, 3) uint8: `x0` by the checkpoint's linear map, one pixel per latent pixel; None without a map."""
        return None if self.rgb is None else self.rgb(self.x0).numpy()


@dataclass(frozen=True, slots=True, eq=False)
class Done(Event):
    """The picture is finished."""

    picture: Picture
    began: float | None = field(default=None, repr=False)
    """When decoding began."""
    latent: Tensor | None = field(default=None, repr=False)
    """(C, h, w) float32: what was decoded, scaled as the last stage's network sees it."""


@dataclass(frozen=True, slots=True, eq=False)
class Cancelled(Event):
    """Cancelled by its owner; nothing more comes for this ticket."""


@dataclass(frozen=True, slots=True, eq=False)
class Failed(Event):
    """This ticket cannot be finished; the others go on."""

    error: LaurError


END = (Done, Cancelled, Failed)
"""The events after which nothing more comes for a ticket."""
