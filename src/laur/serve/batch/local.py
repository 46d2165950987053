"""A batch on this machine: the Engine is kept filled from the file, and each picture is written as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from laur.core.errors import LaurError
from laur.pipeline.events import Done, Failed, Ticket
from laur.serve.batch.wishes import Wish

if TYPE_CHECKING:
    from laur.pipeline.engine import Engine
    from laur.serve.batch.folder import Folder

AHEAD = 16
"""Wishes in the engine at once: enough to fill any batch it makes, few enough to keep memory flat."""


@dataclass(slots=True)
class Tally:
    """How far a batch is."""

    total: int
    there: int = 0
    """Pictures that were there before."""
    drawn: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """Lines that need nothing more."""
        return self.there + self.drawn + self.failed


def waiting(wishes: Iterator[Wish], folder: Folder, tally: Tally, report: Callable[[Tally], None]) -> Iterator[Wish]:
    """Those that have to be drawn; what is there is counted, what is no recipe is written down."""
    for wish in wishes:
        if folder.has(wish):
            tally.there += 1
        elif isinstance(wish.recipe, LaurError):
            settle(wish, wish.recipe, folder, tally)
        else:
            yield wish
            continue
        report(tally)


def settle(wish: Wish, found: bytes | LaurError, folder: Folder, tally: Tally) -> None:
    """Write a picture, or what is wrong. Errors: OutputError."""
    if isinstance(found, LaurError):
        folder.fail(wish, str(found))
        tally.failed += 1
    else:
        folder.write(wish, found)
        tally.drawn += 1


def draw(engine: Engine, wishes: Iterator[Wish], format: str) -> Iterator[tuple[Wish, bytes | LaurError]]:
    """Pictures' files as they are finished, in whatever order; a wish that cannot be drawn gives its error."""
    going: dict[int, Wish] = {}
    more = True
    while more or going:
        while more and len(going) < AHEAD:
            wish = next(wishes, None)
            if wish is None:
                more = False
                break
            assert not isinstance(wish.recipe, LaurError)
            try:
                job = engine.resolve(wish.recipe)
            except LaurError as error:
                yield wish, error
                continue
            ticket: Ticket = engine.submit(job.plan, job.recipe)
            going[ticket.number] = wish
        for event in engine.step():
            if isinstance(event, Failed):
                yield going.pop(event.ticket.number), event.error
            elif isinstance(event, Done):
                yield going.pop(event.ticket.number), event.picture.encode(format)


def run(
    engine: Engine,
    wishes: Iterator[Wish],
    folder: Folder,
    tally: Tally,
    report: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Draw what is missing. Errors: OutputError, DataError; what is written stays."""
    todo = waiting(wishes, folder, tally, report)
    for wish, found in draw(engine, todo, folder.renderer.name):
        settle(wish, found, folder, tally)
        report(tally)
    return tally
