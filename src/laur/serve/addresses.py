"""Addresses that clients name: which of them this server calls, and how it calls the very one that was looked at.

A name is looked up once, every address found for it must be a public one, and the connection is made to the first of
these, so that a name which means something else a moment later changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from laur.core.errors import RecipeError

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host, as text. Raises OSError where its name is not known."""
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Allowed(StrEnum):
    """Which addresses may be called."""

    OFF = "off"
    PUBLIC = "public"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes, so that nothing is looked up again: for httpx2."""

    url: str
    headers: dict[str, str]
    extensions: dict[str, Any]


async def look_up(host: str, port: int) -> list[str]:
    """By the system's resolver. Raises OSError."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise OSError("its name is not known") from None
    return [str(entry[4][0]) for entry in found]


def is_public(address: str) -> bool:
    """Whether an address is of the public internet, also where it holds an IPv4 address (mapped, 6to4, NAT64)."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is None and found not in _UNICAST:
            return False
        found = inner or found
    return found.is_global and not found.is_multicast


def check_text(what: str, address: str) -> None:
    """Raise RecipeError for what is no http:// or https:// address, as far as its text tells; `what` names its use."""
    import httpx2

    try:
        url = httpx2.URL(address)
        port = url.port
    except (httpx2.InvalidURL, ValueError):
        raise RecipeError(f"{what} cannot be read") from None
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or port not in {None, *range(1, 65536)}:
        raise RecipeError(f"{what} is an http:// or https:// address without a login")


async def target(what: str, address: str, allowed: Allowed, resolve: Resolve = look_up) -> Target:
    """Where to connect for an address.

    Errors: RecipeError where it may not be called; `what` names its use there. OSError where its name is not known.
    """
    import httpx2

    check_text(what, address)
    url = httpx2.URL(address).copy_with(fragment=None)
    host = url.raw_host.decode("ascii")
    found = await resolve(host, url.port or (443 if url.scheme == "https" else 80))
    if allowed is Allowed.OFF or not found or (allowed is Allowed.PUBLIC and not all(map(is_public, found))):
        raise RecipeError(f"{what} does not lead to a public network")
    place = url.copy_with(host=found[0].partition("%")[0])
    return Target(str(place), {"Host": url.netloc.decode("ascii")}, {"sni_hostname": host})
