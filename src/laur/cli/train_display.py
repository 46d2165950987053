"""What a person sees of a training run: a bar with the time that is left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from laur.cli import console
from laur.cli.console import say, stderr_is_terminal
from laur.train.listener import Listener

if TYPE_CHECKING:
    from laur.train.config import RunConfig
    from laur.train.journal import Entry

QUIET_SECONDS = 10.0
"""In a pipe or a log a line of progress comes at most this often."""
SMOOTH = 0.9
"""Decay of the speed and of the loss that are shown."""


class Lines(Listener):
    """Plain lines."""

    def __init__(self) -> None:
        self._config: RunConfig | None = None
        self._pace: float | None = None
        self._loss: float | None = None
        self._last = self._spoke = 0.0

    def began(self, update: int, config: RunConfig) -> None:
        """Say where the run stands."""
        self._config = config
        self._last = self._spoke = time.perf_counter()
        if update:
            self.say(f"going on after update {update}")

    def entry(self, entry: Entry, done: float) -> None:
        """A line now and then, and one at the end."""
        now = time.perf_counter()
        self._pace = _smoothed(self._pace, now - self._last)
        self._loss = _smoothed(self._loss, entry.loss)
        self._last = now
        self.show(entry, done)

    def show(self, entry: Entry, done: float) -> None:
        """The state of things after an update."""
        if self._last - self._spoke >= QUIET_SECONDS or done >= 1:
            self._spoke = self._last
            self.say(f"update {self.place(entry)}, {self.figures(entry)}, {clock(self.left(entry))} left")

    def note(self, text: str) -> None:
        """A line."""
        self.say(text)

    def warn(self, text: str) -> None:
        """A line that says so."""
        console.warn(text)

    def say(self, text: str) -> None:
        """A line for people."""
        say(text)

    def place(self, entry: Entry) -> str:
        """How far the run is."""
        assert self._config is not None
        limit = f" of {self._config.updates}" if self._config.minutes is None else ""
        return f"{entry.update + 1}{limit}"

    def figures(self, entry: Entry) -> str:
        """What is worth a glance."""
        return f"loss {self._loss:.4g}, {entry.pictures_per_second:.3g} pictures/s"

    def left(self, entry: Entry) -> float:
        """Seconds until the end, as far as one can tell."""
        assert self._config is not None
        if self._config.minutes is not None:
            return max(0.0, 60 * self._config.minutes - entry.seconds)
        return max(0, self._config.updates - entry.update - 1) * (self._pace or 0.0)


class Bar(Lines):
    """A progress bar."""

    def __init__(self) -> None:
        super().__init__()
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.fields[place]}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console.console(err=True),
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1.0, place="", figures="first update", left="?")

    def began(self, update: int, config: RunConfig) -> None:
        """Show the bar."""
        super().began(update, config)
        self._bar.start()

    def show(self, entry: Entry, done: float) -> None:
        """Move the bar."""
        place, figures, left = self.place(entry), self.figures(entry), clock(self.left(entry))
        self._bar.update(self._task, completed=done, place=place, figures=figures, left=left)

    def say(self, text: str) -> None:
        """Above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar off the screen."""
        self._bar.stop()


def display() -> Lines:
    """What suits standard error."""
    return Bar() if stderr_is_terminal() else Lines()


def clock(seconds: float) -> str:
    """0:04:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else SMOOTH * before + (1 - SMOOTH) * now
