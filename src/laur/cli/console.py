"""What the commands share with a terminal: lines on standard error, plain or not, and quiet libraries."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

QUIET = {
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""What keeps the libraries' chatter and bars off the terminal. What the user set in the environment stays."""


def quiet_libraries() -> None:
    """Silence what other packages say while they work, before any of them is imported; Laur's own warnings stay."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:  # python -W and PYTHONWARNINGS come first
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module=r"laur(\.|$)")


def one_line(text: str) -> str:
    """The text without line breaks and runs of blanks."""
    return " ".join(text.split())


def say(text: str) -> None:
    """A line for people, on standard error."""
    typer.echo(text, err=True)


def warn(text: str) -> None:
    """Something that the user should know but that stops nothing."""
    say(f"laur: warning: {one_line(text)}")


def complain(text: str) -> None:
    """Why the command ends here, in one line."""
    say(f"laur: {one_line(text)}")


def stdout_is_terminal() -> bool:
    """Whether what goes to standard output is seen by a person."""
    return sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Whether what goes to standard error is seen by a person, on a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def console(*, err: bool = False) -> Console:
    """A rich console on standard output or error. In a pipe it is wide enough never to cut a table."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(stderr=err, width=None if stream.isatty() else 160, highlight=False)


@contextmanager
def interrupts_held() -> Generator[None]:
    """Put off Ctrl-C and a polite kill until the block is through: a file that is being finished gets finished."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        pending.append(number)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if pending:
        signal.raise_signal(pending[0])


NOTHING = (None, "", [], {})
"""Values that a table of facts leaves out."""


def show_table(rows: Mapping[str, str]) -> None:
    """Names in bold and their values beside them, on standard output, without the blanks at the end of lines."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    screen = console()
    with screen.capture() as shown:
        screen.print(table)
    for line in shown.get().splitlines():
        typer.echo(line.rstrip())  # rich fills the last column up, which is in the way in a pipe
