"""Who may ask, what they see, and how much they get: API keys, a tenant's view of the queue, limits, signed links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laur.serve.access.keys import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may reach a server's routes."""

    keys: Keys | None = None
    """None: everybody."""
    open_metrics: bool = False
    """Whether /metrics answers without a key."""
    origins: tuple[str, ...] = ()
    """Of web pages whose scripts may ask, as browsers name them; none by default."""
