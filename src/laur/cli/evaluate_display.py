"""What a person sees of an evaluation: bars while it runs, a table at the end."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from laur.cli.console import console, say, stderr_is_terminal
from laur.train.evaluate.run import Listener

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

COLUMNS = ("kid", "fd", "precision", "recall", "coverage", "caption", "psnr")
"""What fits on a terminal; all the others are in the report."""


class _Lines(Listener):
    """A line when something begins, for pipes and logs."""

    def phase(self, name: str, total: int) -> None:
        """See Listener."""
        say(f"{name}: {total}" if total else name)


class _Bars(Listener):
    """A bar for each part."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def phase(self, name: str, total: int) -> None:
        """See Listener."""
        self._task = self._bars.add_task(name, total=total or None)

    def more(self, count: int) -> None:
        """See Listener."""
        if self._task is not None:
            self._bars.advance(self._task, count)


@contextmanager
def shown() -> Generator[Listener]:
    """Something that shows how far it is."""
    if not stderr_is_terminal():
        yield _Lines()
        return
    from rich.progress import Progress

    with Progress(console=console(err=True), transient=True) as bars:
        yield _Bars(bars)


def summary(result: Mapping[str, Any]) -> Table:
    """The numbers without their intervals, but for the excess."""
    from rich.table import Table

    from laur.train.evaluate import metrics
    from laur.train.evaluate.result import excess_words
    from laur.train.evaluate.result import shown as worded

    rows: list[dict[str, Any]] = list(result["subjects"])
    keys = [key for key in COLUMNS if any(key in row["metrics"] for row in rows)]
    found = Table(box=None, pad_edge=False)
    found.add_column("")
    for key in keys:
        found.add_column(metrics.ALL[key].title, justify="right")
    found.add_column("excess KID, % of DDIM-4's", justify="right", min_width=26)
    for row in rows:
        words = [worded(key, row["metrics"][key]["value"]) if key in row["metrics"] else "" for key in keys]
        name = row["name"] + (" [dim](noise floor)[/]" if row["role"] == "teacher" else "")
        found.add_row(name, *words, excess_words(row))
    return found
