"""Who is told what a run does: a progress bar, lines in a log, a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laur.train.config import RunConfig
    from laur.train.journal import Entry


class Listener:
    """Hears everything and does nothing; the base of those that do."""

    def began(self, update: int, config: RunConfig) -> None:
        """The loop starts with `update` updates behind it."""

    def entry(self, entry: Entry, done: float) -> None:
        """An update is over, and with it a part `done` (0..1) of the run."""

    def close(self) -> None:
        """The loop is over, whatever ended it."""

    def note(self, text: str) -> None:
        """Something that a person may want to know: a state saved, a sheet drawn."""

    def warn(self, text: str) -> None:
        """Something that a person should know, though it stops nothing."""
