"""How a worker behaves."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field


def _name() -> str:
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Of one worker."""

    name: str = field(default_factory=_name)
    """Unique among workers."""
    serves: frozenset[str] | None = None
    """Checkpoints that recipes may name besides the Engine's own; None is all that have a name on this machine."""
    largest: int = 3
    """Class of the largest pictures that are taken, see `size_class`."""
    native: int = 256
    """Pixels of a usual picture's side."""
    load: float = 1.25
    """How many full batches are held at a time: what is above 1 is planned while the batch is drawn."""
    solo_after: int = 2
    """Attempts that ended without an answer after which a job is drawn alone, so that no other suffers with it."""
    preview_side: int = 256
    """Pixels of a preview's longer side at most."""
    grace: float = 25.0
    """Seconds that a drain waits for what is being drawn; Kubernetes kills 30 s after SIGTERM unless told otherwise."""
    stall: float = 300.0
    """Seconds in one step of the Engine after which the worker says that it is not alive."""
    block: float = 1.0
    """Seconds that a claim waits for a job; a drain waits for it to end."""
