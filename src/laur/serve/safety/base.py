"""The hook: what one must offer, and how it is found.

A folder in the format of diffusers' StableDiffusionSafetyChecker is read by `laur.serve.safety.clip`. Anything else is
the name of an entry point in the group `laur.safety`, whose object is called without arguments and gives a `Safety`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from laur.core.errors import NotFoundError

if TYPE_CHECKING:
    import numpy as np

GROUP = "laur.safety"
REFUSED = "moderation_blocked"
"""The kind of failure where a prompt is not drawn: OpenAI's own word."""


class Safety(Protocol):
    """Judges prompts and pictures. Its methods are called from several threads."""

    name: str
    """Of what it judges by, weights included: files that were judged by another are judged anew."""

    def prompt(self, text: str) -> str | None:
        """Why a prompt, as it is drawn after its wildcards, is refused, in one line; None where it is not."""
        ...

    def picture(self, pixels: np.ndarray) -> str | None:
        """Why a picture, (H, W, 3) uint8, is shown blurred, in one line; None where it is shown as it is."""
        ...


@cache
def open_safety(wanted: str) -> Safety:
    """A folder of weights, or a plug-in by name. Errors: NotFoundError, CheckpointError."""
    if Path(wanted).is_dir():
        from laur.serve.safety.clip import ClipSafety

        return ClipSafety(Path(wanted))
    known = entry_points(group=GROUP)
    for entry in known:
        if entry.name == wanted:
            return entry.load()()
    names = ", ".join(sorted(entry.name for entry in known)) or "none"
    raise NotFoundError(
        f"--safety {wanted[:80]}: no folder, and no plug-in of that name; plug-ins that are installed: {names}"
    )
