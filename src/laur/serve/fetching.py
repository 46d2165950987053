"""Pictures by address, fetched for clients: off unless the operator allows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from laur.core.errors import PictureError, RecipeError
from laur.serve.addresses import Allowed, Resolve, look_up, target

if TYPE_CHECKING:
    from httpx2 import Response

WHAT = "a picture's address"
AT_ONCE = 8
"""Pictures that are fetched at the same time by one process."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Gets what lies at an address, within limits; whether it is a picture is looked at later."""

    allowed: Allowed = Allowed.OFF
    bytes: int = 20 * 2**20
    """At most; what comes compressed is not unpacked."""
    seconds: float = 15.0
    """For all of it, redirects and waiting included."""
    redirects: int = 3
    """That are followed, each looked at as the first address was."""
    resolve: Resolve = look_up
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE), repr=False)

    async def get(self, address: str) -> bytes:
        """The bytes. Errors: RecipeError where it may not be called, PictureError where it cannot be had."""
        if self.allowed is Allowed.OFF:
            raise RecipeError(
                "pictures by address are off on this server; send the picture itself, as a data URL or a file "
                "(its operator may allow addresses with --image-urls public)"
            )
        try:
            async with asyncio.timeout(self.seconds), self._slots:
                return await self._follow(address)
        except TimeoutError:
            raise PictureError(f"the picture did not come within {self.seconds:g} seconds") from None

    async def _follow(self, address: str) -> bytes:
        for _ in range(self.redirects + 1):
            content, onward = await self._one(address)
            if onward is None:
                return content
            address = onward
        raise PictureError(f"the picture's address leads on more than {self.redirects} times; give the last one")

    async def _one(self, address: str) -> tuple[bytes, str | None]:
        """What lies there, or where it leads on."""
        import httpx2

        try:
            found = await target(WHAT, address, self.allowed, self.resolve)
        except OSError:  # what cannot be found and what may not be called answer alike
            raise RecipeError(f"{WHAT} does not lead to a public network") from None
        headers = {**found.headers, "Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "laur"}
        try:
            async with (
                httpx2.AsyncClient(timeout=self.seconds, follow_redirects=False, trust_env=False) as client,
                client.stream("GET", found.url, headers=headers, extensions=found.extensions) as answer,
            ):
                if answer.status_code in _REDIRECTS:
                    return b"", _onward(address, answer)
                if answer.status_code != 200:
                    raise PictureError(f"the picture could not be fetched: its server answered {answer.status_code}")
                return await self._body(answer), None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise PictureError(f"the picture could not be fetched: {type(error).__name__}") from None

    async def _body(self, answer: Response) -> bytes:
        announced = answer.headers.get("content-length", "")
        content = bytearray()
        too_large = announced.isdigit() and int(announced) > self.bytes
        if not too_large:
            async for piece in answer.aiter_raw():
                content += piece
                if too_large := len(content) > self.bytes:
                    break
        if too_large:
            raise PictureError(f"the picture has more than the {self.bytes:,} bytes that are fetched; scale it down")
        return bytes(content)


def _onward(address: str, answer: Response) -> str:
    import httpx2

    onward = answer.headers.get("location")
    if not onward:
        raise PictureError("the picture could not be fetched: its address leads on to nowhere")
    return str(httpx2.URL(address).join(onward))
