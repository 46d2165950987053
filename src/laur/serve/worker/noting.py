"""What the Engine's thread tells goes into the times, figures and traces of the jobs before it is handled."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from laur.serve.worker.messages import Prepared, Stepped, Told

if TYPE_CHECKING:
    from laur.pipeline.events import Call
    from laur.serve.observe.trace import JobSpan, Tracing
    from laur.serve.worker.held import Hand, Held

LOG = logging.getLogger(__name__)
Moved = dict["Call", list[tuple["JobSpan", int]]]


def observe(told: Sequence[Told], hand: Hand, tracing: Tracing) -> list[tuple[Held, Told]]:
    """Note it; returns what is still to be done for the jobs that are in hand, in order. Raises nothing."""
    moved: Moved = {}
    left: list[tuple[Held, Told]] = []
    for item in told:
        held = hand.jobs.get(item.id)
        if held is None:
            continue
        with _harmless():
            _note(held, item, moved)
        if not isinstance(item, Prepared):
            left.append((held, item))
    for call, jobs in moved.items():
        with _harmless():
            tracing.call(call, jobs)
    return left


def _note(held: Held, item: Told, moved: Moved) -> None:
    if isinstance(item, Prepared):
        held.journey.note("prepare", item.began, item.ended)
        held.journey.note("text", item.ended - item.text, item.ended)
    elif isinstance(item, Stepped) and (call := item.progress.call) is not None:
        held.journey.moved(call)
        moved.setdefault(call, []).append((held.journey.span, item.progress.step))


@contextmanager
def _harmless() -> Generator[None]:
    """What cannot be noted of a job must not keep it, nor others told of at the same time, from its end."""
    try:
        yield
    except Exception:
        LOG.exception("what was told of a job could not be noted")
