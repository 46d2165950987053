"""Job: a Recipe with an identity and an owner, and the record of what has become of it.

    queued ──▶ running ──▶ done | failed | cancelled

A job goes back from running to queued when its worker dies, drains or meets trouble that another attempt may not meet.
The three on the right are final: nothing ever changes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from laur.core.errors import LaurError, RecipeError
from laur.core.recipe import Recipe

DEFAULT_TENANT = "default"
TRAINING = "train"
"""The first part of the pool of jobs that train."""
HIGHEST, NORMAL, LOWEST = 0, 4, 9
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_FORMAT = re.compile(r"[a-z0-9]{1,8}")
_TYPICAL_STEPS, _TYPICAL_SIDE = 4, 512
"""What an open recipe is taken to cost before any worker has filled it."""


def is_tenant(name: object) -> bool:
    """Whether something is a tenant's name."""
    return isinstance(name, str) and _TENANT.fullmatch(name) is not None


class State(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more can come of the job."""
        return self in {State.DONE, State.FAILED, State.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A wish of one tenant."""

    recipe: Recipe
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    """Chosen by the client or drawn; submitting the same id again gives the first job back."""
    tenant: str = DEFAULT_TENANT
    """Who shares the workers fairly with whom."""
    priority: int = NORMAL
    """0 first, 9 last, among the jobs of one tenant; tenants share by work done, whatever their priorities."""
    deadline: float | None = None
    """Unix seconds by the queue's clock; a job that is not done by then fails, in the middle of sampling too."""
    format: str = "png"
    metadata: bool = True
    """Whether recipe and provenance stand in the file."""
    training: bool = False
    """Whether it trains, as its note says, in place of drawing its recipe."""
    previews: bool = False
    """Whether small previews are published while it is drawn."""
    created: float = field(default_factory=time.time)
    note: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What an API wants back with the record: plain values, ready for JSON, small."""
    request: str | None = None
    """Id of the request that it came with, for logs."""
    trace: Mapping[str, str] = field(default_factory=dict[str, str])
    """Headers of the trace that it belongs to, `traceparent` say; empty where traces are off."""

    def __post_init__(self) -> None:
        for name, value, pattern in (("id", self.id, _ID), ("tenant", self.tenant, _TENANT)):
            if not isinstance(value, str) or not pattern.fullmatch(value):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise RecipeError(f"a job's {name} is 1 to 64 letters, digits, - and _, not {str(value)[:80]!r}")
        if not _FORMAT.fullmatch(self.format):
            raise RecipeError(f"a job's format is a name such as png, not {self.format[:80]!r}")
        if self.priority not in range(HIGHEST, LOWEST + 1):
            raise RecipeError(f"priority is {self.priority}; it must be from {HIGHEST} (first) to {LOWEST} (last)")

    @property
    def pool(self) -> str:
        """Which workers can take it: checkpoint (a hash of its name; `own` is the worker's own) and class of size."""
        first = TRAINING if self.training else pool_of(self.recipe.checkpoint)
        return f"{first}.{size_class(self.pixels)}"

    @property
    def pixels(self) -> int:
        """Of the picture, as far as the recipe says."""
        return (self.recipe.width or _TYPICAL_SIDE) * (self.recipe.height or _TYPICAL_SIDE)

    @property
    def work(self) -> float:
        """What fairness charges for it: steps x rows x pixels, 1.0 for a usual picture of 512x512; or updates."""
        if self.training:
            return float(self.note["training"]["updates"])
        rows = 2 if self.recipe.guidance is not None and self.recipe.guidance > 1 else 1
        steps = self.recipe.steps or _TYPICAL_STEPS
        return steps * rows * self.pixels / (_TYPICAL_STEPS * _TYPICAL_SIDE**2)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Short hashes of what it draws with, for finding a worker that holds them already."""
        return tuple(sorted(short_hash(name) for name in adapter_names(self.recipe)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**_shallow(self), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From `to_dict`'s form; what a later version added is ignored."""
        known = {f.name for f in dataclasses.fields(cls)}
        own: dict[str, Any] = {name: value for name, value in values.items() if name in known}
        own["recipe"] = Recipe.from_dict(values["recipe"])
        return cls(**own)


SIZE_CLASSES = (512**2, 1024**2, 2048**2)
"""Largest pixels of each class; class 3 is everything above."""


def size_class(pixels: int) -> int:
    """0 up to 512x512, 1 up to 1024x1024, 2 up to 2048x2048, 3 above."""
    return sum(pixels > limit for limit in SIZE_CLASSES)


def short_hash(name: str) -> str:
    """Twelve digits that stand for a name in keys."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def adapter_names(recipe: Recipe) -> list[str]:
    """The adapters and the style that a recipe names, each once."""
    names = [ref.name for ref in recipe.adapters or ()] + ([recipe.style] if recipe.style else [])
    return list(dict.fromkeys(names))


def pool_of(checkpoint: str | None) -> str:
    """The first part of `Job.pool`."""
    return "own" if checkpoint is None else short_hash(checkpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Where the finished file lies and what it is; the bytes are in the store."""

    key: str
    """In the store: 64 hexadecimal digits, a dot and the format."""
    media_type: str
    size: int
    """Bytes."""
    sha256: str
    """Of the file: what an ETag says."""
    width: int
    height: int
    recipe: Recipe
    """Filled in."""
    warnings: tuple[str, ...] = ()
    cached: bool = False
    """Drawn for an earlier job, or by another job at the same time."""
    blurred: str | None = None
    """Why the file shows colours only, see `laur.serve.safety`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**_shallow(self), "warnings": list(self.warnings), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From `to_dict`'s form."""
        own: dict[str, Any] = {**values, "recipe": Recipe.from_dict(values["recipe"])}
        own["warnings"] = tuple(values.get("warnings", ()))
        return cls(**own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job failed, in one line that may be shown to its owner."""

    kind: str
    """`deadline`, `poison`, or the name of an error's class."""
    message: str
    status: int = 500
    """What an HTTP API answers with."""
    retry: bool = False
    """Whether another attempt, perhaps on another machine, may go better."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return _shallow(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From `to_dict`'s form."""
        return cls(**values)

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """From an exception: its own line if it is one of ours, else only its class, as the rest may tell too much."""
        kind = type(error).__name__
        if isinstance(error, LaurError):
            # memory and disks differ between machines and moments; a wish stays as it is
            return cls(kind=kind, message=str(error), status=error.http_status, retry=error.http_status in {413, 507})
        return cls(kind=kind, message=f"the worker met an unexpected {kind}; its log has the details", retry=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a queue knows of a job."""

    job: Job
    state: State = State.QUEUED
    attempts: int = 0
    """Times that a worker has begun to draw it."""
    worker: str | None = None
    """Who draws it, or drew it last."""
    step: int = 0
    steps: int = 0
    started: float | None = None
    """Unix seconds of the last beginning."""
    finished: float | None = None
    result: Result | None = None
    failure: Failure | None = None
    """Final if the state is; else of the last attempt."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = {**_shallow(self), "state": self.state.value, "job": self.job.to_dict()}
        values["result"] = self.result.to_dict() if self.result else None
        values["failure"] = self.failure.to_dict() if self.failure else None
        return values


def _shallow(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
