"""How several owners share an Engine: a flood of one must not make the others wait for its calls.

A call of many rows draws more pictures a second than a small one, and on a CPU it takes nearly as many times longer.
While more than one owner has tickets, each has as many rows in a call as the one with the fewest, or as come for next
to nothing on the device; who asks for one picture then waits for calls of a few rows, not of full batches. Finished
pictures are decoded a few at a time, so that nobody waits for all of those that a full batch finishes at once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laur.pipeline.running import Running

LEAST = 0.05
"""Seconds of decoding after which a step may end although its call was shorter."""


def most_each(active: Iterable[Running]) -> int | None:
    """The most rows that an owner may have in the next call; None where there is but one owner."""
    rows: Counter[Hashable] = Counter()
    for running in active:
        rows[running.ticket.owner] += len(running.stage.rows)
    return min(rows.values()) if len(rows) > 1 else None


def fill(lane: Sequence[Running], cap: int, most: int | None) -> list[Running]:
    """The tickets of a lane's next call: the oldest first, up to `cap` rows, and of one owner up to `most`.

    Each owner's first ticket counts as allowed whatever its rows, and the oldest of all always fits.
    """
    chosen: list[Running] = []
    taken: Counter[Hashable] = Counter()
    total = 0
    for running in lane:
        rows, owner = len(running.stage.rows), running.ticket.owner
        if most is not None and taken[owner] and taken[owner] + rows > most:
            continue
        if chosen and total + rows > cap:
            break  # first come, first finished: those left out follow as the older ones leave
        chosen.append(running)
        taken[owner] += rows
        total += rows
    return chosen


def turns(finished: Iterable[Running]) -> list[Running]:
    """Pictures to decode, one of each owner after the other."""
    seen: Counter[Hashable] = Counter()
    ranked: list[tuple[int, int, Running]] = []
    for number, running in enumerate(finished):
        ranked.append((seen[running.ticket.owner], number, running))
        seen[running.ticket.owner] += 1
    return [running for _, _, running in sorted(ranked, key=lambda entry: entry[:2])]


def is_enough(running: Running, call: float, began: float) -> bool:
    """Whether a step has decoded long enough: about twice as long as its denoiser call took.

    Without an owner a picture is never kept waiting.
    """
    return running.ticket.owner is not None and time.perf_counter() - began >= max(LEAST, 2 * call)
