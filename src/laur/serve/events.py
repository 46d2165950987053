"""What happens to a job, as a typed stream: the same from an in-process queue and from Redis."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laur.serve.job import Failure, Result, State


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """Something that happened to one job."""

    job: str
    """Its id."""
    at: float = 0.0
    """Unix seconds, by the queue's clock; the queue fills it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(JobEvent):
    """It waits: newly submitted, or handed back to be tried again."""

    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(JobEvent):
    """A worker has begun to draw it."""

    attempts: int
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(JobEvent):
    """A step is done."""

    step: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(JobEvent):
    """What the picture looks like after a step, a small file."""

    step: int
    steps: int
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(JobEvent):
    """The job is final; nothing more comes."""

    state: State
    result: Result | None = None
    failure: Failure | None = None


_KINDS: dict[str, type[JobEvent]] = {
    "queued": Queued,
    "started": Started,
    "progress": Progress,
    "preview": Preview,
    "ended": Ended,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def name_of(event: JobEvent) -> str:
    """queued, started, progress, preview or ended: what server-sent events are called."""
    return _NAMES[type(event)]


def to_dict(event: JobEvent) -> dict[str, Any]:
    """Plain values, ready for JSON; pictures in base64."""
    values: dict[str, Any] = {name: getattr(event, name) for name in event.__dataclass_fields__}
    if isinstance(event, Preview):
        values["data"] = base64.b64encode(event.data).decode()
    if isinstance(event, Ended):
        values["state"] = event.state.value
        values["result"] = event.result.to_dict() if event.result else None
        values["failure"] = event.failure.to_dict() if event.failure else None
    return {"event": name_of(event), **values}


def from_dict(values: Mapping[str, Any]) -> JobEvent:
    """From `to_dict`'s form."""
    own: dict[str, Any] = {name: value for name, value in values.items() if name != "event"}
    kind = _KINDS[values["event"]]
    if kind is Preview:
        own["data"] = base64.b64decode(own["data"])
    if kind is Ended:
        own["state"] = State(own["state"])
        own["result"] = Result.from_dict(own["result"]) if own["result"] else None
        own["failure"] = Failure.from_dict(own["failure"]) if own["failure"] else None
    return kind(**own)
