"""Webhooks: a prediction's events sent to an address that the client named, tried again until they arrive.

Off unless the operator allows them. With `public` an address must not lead into the server's own network: its name is
looked up once, every address found must be a public one, and the connection is made to that very address.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field
from typing import Any

from laur.core.errors import RecipeError
from laur.serve.addresses import Allowed, Resolve, check_text, look_up, target

LOG = logging.getLogger(__name__)
TRIES = 8
FIRST, LONGEST = 0.5, 60.0
"""Seconds between tries: at first, at last; doubling."""
TIMEOUT = 10.0
WHAT = "a webhook's address"


@dataclass(slots=True)
class Webhooks:
    """Sends in the background, in the order of a prediction's events."""

    allowed: Allowed = Allowed.OFF
    pause: float = FIRST
    resolve: Resolve = look_up
    _tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def check(self, url: str | None) -> None:
        """Raise RecipeError for an address that may not be called, as far as its text tells."""
        if url is None:
            return
        if self.allowed is Allowed.OFF:
            raise RecipeError("webhooks are off on this server; its operator may allow them with --webhooks public")
        check_text(WHAT, url)

    def start(self, work: Any) -> None:
        """Run a coroutine that sends, until it is through or the server ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOG.error("what sends a webhook met an unexpected fault", exc_info=error)

    async def close(self) -> None:
        """Give up what has not arrived."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def send(self, url: str, body: str, *, tries: int = TRIES) -> bool:
        """POST JSON until something answers with success, or refuses it for good; False where it never arrived."""
        pause = self.pause
        for attempt in range(tries):
            try:
                status = await self._post(url, body)
            except (OSError, RecipeError) as error:
                LOG.info("a webhook did not arrive: %s", error)
                if isinstance(error, RecipeError):
                    return False
            else:
                if status < 300:
                    return True
                LOG.info("a webhook was answered with %d", status)
                if status < 500 and status not in {408, 425, 429}:
                    return False
            if attempt < tries - 1:
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))
                pause = min(LONGEST, 2 * pause)
        return False

    async def _post(self, url: str, body: str) -> int:
        import httpx2

        found = await target(WHAT, url, self.allowed, self.resolve)
        headers = {**found.headers, "Content-Type": "application/json"}
        try:
            async with httpx2.AsyncClient(timeout=TIMEOUT, follow_redirects=False, trust_env=False) as client:
                answer = await client.post(
                    found.url, content=body.encode(), headers=headers, extensions=found.extensions
                )
                return answer.status_code
        except httpx2.HTTPError as error:
            raise OSError(f"{type(error).__name__}") from None
        except httpx2.InvalidURL:
            raise RecipeError(f"{WHAT} cannot be read") from None
