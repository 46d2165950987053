"""What webhooks tell: a prediction's or a training's milestones, as they come."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from laur.core.errors import LaurError
from laur.serve import events
from laur.serve.http.webhooks import LONGEST, TRIES, Webhooks
from laur.serve.queue import Queue

LOG = logging.getLogger(__name__)
Milestone = Literal["start", "output", "logs", "completed"]
SPACING = 0.5
"""Seconds between two messages that tell of progress, at least, as Cog keeps them."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who wants to know."""

    url: str
    wanted: frozenset[Milestone]

    @classmethod
    def of(cls, url: str | None, wanted: Sequence[Milestone] | None) -> Listener | None:
        """From a request's fields: without a filter all is wanted. None where there is no address."""
        everything: tuple[Milestone, ...] = ("start", "output", "logs", "completed")
        return None if url is None else cls(url, frozenset(everything if wanted is None else wanted))


async def tell(
    webhooks: Webhooks,
    listener: Listener,
    what: str,
    *,
    queue: Queue,
    parts: Callable[[], Awaitable[Sequence[str]]],
    read: Callable[[], Awaitable[BaseModel]],
) -> None:
    """Send what was asked for: `start` and `logs` once as they come, `completed` until it arrives.

    `what` names it in the log, `parts` gives its jobs and `read` what has become of it. Where the queue or the store
    does not answer, it looks again as often as a webhook is tried; `start` may come twice.
    """
    pause = webhooks.pause
    for left in reversed(range(TRIES)):
        try:
            async with aclosing(_milestones(queue, await parts())) as milestones:
                async for milestone in milestones:
                    if milestone in listener.wanted or (milestone == "completed" and "output" in listener.wanted):
                        body = (await read()).model_dump_json()
                        tries = {} if milestone == "completed" else {"tries": 1}
                        sent = await webhooks.send(listener.url, body, **tries)
                        if not sent and milestone == "completed":
                            LOG.warning("the webhook of %s never arrived", what)
            return
        except LaurError as error:
            then = "it is tried again" if left else "it is given up"
            LOG.warning("the webhook of %s cannot be sent; %s: %s", what, then, error)
        await asyncio.sleep(pause if left else 0.0)
        pause = min(LONGEST, 2 * pause)


async def _milestones(queue: Queue, parts: Sequence[str]) -> AsyncGenerator[Milestone]:
    started, told = False, float("-inf")
    for part in parts:
        async with aclosing(queue.watch(part)) as watch:
            async for event in watch:
                if isinstance(event, events.Started) and not started:
                    started = True
                    yield "start"
                elif isinstance(event, events.Progress) and time.monotonic() - told >= SPACING:
                    told = time.monotonic()
                    yield "logs"
    yield "completed"
