"""What a person sees while pictures are drawn: a bar on a terminal, plain lines elsewhere.

Standard output carries the paths and nothing else; all that is meant for people goes to standard error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import typer

from laur.cli import console
from laur.cli.console import say, stderr_is_terminal

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType

    from laur.cli.draw import Saved

Preview = Callable[["list[np.ndarray]"], "RenderableType"]
"""From the previews of the pictures that are being drawn, (h, w, 3) uint8 each."""

REFRESH_RATE = 10
"""A second, on a terminal."""
QUIET_SECONDS = 5.0
"""In a pipe or a log a line of progress comes at most this often."""


class Display:
    """Plain lines."""

    def __init__(self, *, paths: bool = True, inline: Callable[[Saved], None] | None = None) -> None:
        """`paths` off leaves standard output to somebody else (`--json`); `inline` shows a finished picture."""
        self._paths = paths
        self._inline = inline
        self._steps = self._done = 0
        self._began = self._spoke = 0.0

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def busy(self, what: str) -> None:
        """Something takes its time: loading a model, say."""
        del what

    def begin(self, steps: int, pictures: int) -> None:
        """Drawing starts: so many steps over all pictures."""
        del pictures
        self._steps, self._done = steps, 0
        self._began = self._spoke = time.perf_counter()

    def step(self, picture: int, preview: np.ndarray | None) -> None:
        """One picture got one step further; `preview` is (h, w, 3) uint8."""
        del picture, preview
        self._done += 1
        now = time.perf_counter()
        if now - self._spoke >= QUIET_SECONDS and self._done < self._steps:
            self._spoke = now
            self.tell(f"{self._done} of {self._steps} steps, {now - self._began:.0f} s")

    def saved(self, saved: Saved, in_all: float) -> None:
        """A picture is finished; `in_all` is the command's time so far, in seconds."""
        recipe = saved.picture.recipe
        if self._inline is not None:
            with self._aside():
                self._inline(saved)
        self.tell(
            f"{recipe.width}x{recipe.height}, {recipe.steps} step{'' if recipe.steps == 1 else 's'}, "
            f"{recipe.sampler}, seed {recipe.seed}: {saved.sampling:.2f} s sampling, {in_all:.1f} s in all"
        )
        self.path(os.fspath(saved.path))

    def path(self, path: str) -> None:
        """A file was written: its path is the result."""
        if self._paths:
            with self._aside():
                typer.echo(path)

    def tell(self, text: str) -> None:
        """A line for people."""
        with self._aside():
            say(text)

    def warn(self, text: str) -> None:
        """A warning."""
        with self._aside():
            console.warn(text)

    def close(self) -> None:
        """Nothing more comes."""

    def _aside(self) -> AbstractContextManager[object]:
        """Around every line: what moves on the screen makes room for it."""
        return nullcontext()


class TerminalDisplay(Display):
    """A progress bar, and under it, if wanted, the pictures as they are foreseen at each step."""

    def __init__(
        self, *, paths: bool = True, inline: Callable[[Saved], None] | None = None, preview: Preview | None = None
    ) -> None:
        """`preview` makes the previews of several pictures something that rich can show."""
        super().__init__(paths=paths, inline=inline)
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._preview = preview
        self._seen: dict[int, np.ndarray] = {}
        self._shown: RenderableType | None = None
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeElapsedColumn()
        )
        self._task = self._bar.add_task("", total=None, done="")
        self._live = Live(
            console=console.console(err=True),
            get_renderable=self._view,
            refresh_per_second=REFRESH_RATE,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def busy(self, what: str) -> None:
        """A pulsing bar until the number of steps is known."""
        self._bar.update(self._task, description=what)
        self._live.start()

    def begin(self, steps: int, pictures: int) -> None:
        """A bar over all steps."""
        super().begin(steps, pictures)
        what = "drawing" if pictures == 1 else f"drawing {pictures} pictures"
        self._bar.reset(self._task, total=steps, description=what, done=f"0/{steps} steps")

    def step(self, picture: int, preview: np.ndarray | None) -> None:
        """Move the bar, show the preview."""
        self._done += 1
        if preview is not None:
            self._seen[picture], self._shown = preview, None
        self._bar.update(self._task, completed=self._done, done=f"{self._done}/{self._steps} steps")

    def saved(self, saved: Saved, in_all: float) -> None:
        """What is finished is no longer foreseen."""
        self._seen.pop(min(self._seen, default=-1), None)
        self._shown = None
        super().saved(saved, in_all)

    def close(self) -> None:
        """Take the bar off the screen."""
        self._live.stop()

    @contextmanager
    def _aside(self) -> Generator[None]:
        moving = self._live.is_started
        self._live.stop()
        yield
        if moving and self._done < (self._steps or 1):
            self._live.start()

    def _view(self) -> RenderableType:
        from rich.console import Group

        if self._preview is None or not self._seen:
            return self._bar
        shown = self._shown
        if shown is None:  # made at the rate of the screen, not of the steps
            shown = self._shown = self._preview(list(self._seen.values()))
        return Group(self._bar, shown)


def display(*, paths: bool, inline: Callable[[Saved], None] | None = None, preview: Preview | None = None) -> Display:
    """What suits standard error."""
    if stderr_is_terminal():
        return TerminalDisplay(paths=paths, inline=inline, preview=preview)
    return Display(paths=paths, inline=inline)
