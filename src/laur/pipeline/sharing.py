"""How several owners share an Engine: a flood of one must not make the others wait for its calls.

A call of many rows draws more pictures a second than a small one, and on a CPU it takes nearly as many times longer. So
what each owner had of late is kept, fading by half every few seconds. Those with few rows to draw, who had not much
more than their share, go before those with many, who wait unless there is room for their rows at next to no cost;
others share calls, each with as many rows as the one with the fewest, and where not all fit, those who had least. While
one draws alone, and another who drew a moment ago may come back at any time, calls are brief. Finished pictures are
decoded a few at a time, so that nobody waits for all of those that a full batch finishes at once, and those of owners
who wait after the others'. Decayed use as the measure of who is next is how Unix has long shared a processor (Bach
1986, section 8.1); nobody waits for more than `PATIENCE` calls in a row.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laur.pipeline.running import Running

BRIEF = 0.08
"""Seconds: of a call, and of decoding after it, where somebody else may come at any time."""
AHEAD = 1.5
"""Times its share, the mean of all owners' recent use, up to which one with few rows goes before those with many: who
asks for a picture after the other, which is drawn at once, leaves the others something."""
FEW = 0.5
"""Of the mean of the present owners' rows."""
HALF_LIFE = 3.0
"""Seconds in which what an owner had counts half."""
RECENT = 5.0
"""Seconds for which an owner who had something to draw is expected back."""
PATIENCE = 16
"""Calls in a row that an owner may be left out of, however much it had."""


class Usage:
    """What each owner had drawn of late beside others: rows times latent pixels of its calls.

    What is drawn while nobody else is about costs nobody anything and counts nowhere.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._had: dict[Hashable, float] = {}
        self._seen: dict[Hashable, float] = {}
        """When each last had something to draw, of the last `RECENT` seconds."""
        self._left_out: Counter[Hashable] = Counter()

    def charge(self, batch: Iterable[Running]) -> None:
        """Count a call of those that `waiting` was last asked about."""
        self._fade()
        if len(self._seen) < 2:
            return
        for running in batch:
            _, height, width = running.latent.shape
            owner = running.ticket.owner
            self._had[owner] = self.had(owner) + len(running.stage.rows) * height * width

    def had(self, owner: Hashable) -> float:
        """What an owner had."""
        return self._had.get(owner, 0.0)

    def waiting(self, active: Sequence[Running], cap: int) -> frozenset[Hashable]:
        """Who is left out of the next call: who has more rows to draw than the mean, while somebody has but few and was
        not far ahead of late.

        Never all who have something to draw; nobody where the rows of those few fill a call of `cap` rows anyway.
        """
        self._fade()
        rows: Counter[Hashable] = Counter()
        for running in active:
            self._seen[running.ticket.owner] = self._at
            if not running.finished:
                rows[running.ticket.owner] += len(running.stage.rows)
        share = sum(map(self.had, self._seen)) / max(1, len(self._seen))
        mean = rows.total() / max(1, len(rows))
        light = {owner for owner, own in rows.items() if own < FEW * mean and self.had(owner) <= AHEAD * share}
        late = frozenset[Hashable]()
        if 0 < sum(rows[owner] for owner in light) < cap:
            late = frozenset(owner for owner, own in rows.items() if own > mean and self._left_out[owner] < PATIENCE)
        self._left_out = Counter({owner: self._left_out[owner] + 1 for owner in late})
        return late

    def alone(self) -> bool:
        """Whether one owner draws alone while another, who drew a moment ago, may come back."""
        present = sum(seen == self._at for seen in self._seen.values())
        return present == 1 and len(self._seen) > 1

    def _fade(self) -> None:
        now = self._clock()
        factor, self._at = 0.5 ** ((now - self._at) / HALF_LIFE), now
        self._had = {owner: use * factor for owner, use in self._had.items() if use * factor >= 1.0}
        self._seen = {owner: seen for owner, seen in self._seen.items() if now - seen <= RECENT}


def most_each(active: Iterable[Running]) -> int | None:
    """The most rows that an owner may have in the next call; None where there is but one owner."""
    rows: Counter[Hashable] = Counter()
    for running in active:
        rows[running.ticket.owner] += len(running.stage.rows)
    return min(rows.values()) if len(rows) > 1 else None


def fill(
    lane: Sequence[Running], cap: int, most: int | None, had: Callable[[Hashable], float] = lambda owner: 0.0
) -> list[Running]:
    """The tickets of a lane's next call: one of each owner after the other, beginning with who `had` least, of each the
    oldest first, up to `cap` rows, and of one owner up to `most`.

    Each owner's first ticket counts as allowed whatever its rows, and the oldest of all always fits.
    """
    chosen: list[Running] = []
    taken: Counter[Hashable] = Counter()
    total = 0
    for running in [lane[0], *(running for running in turns(lane, had) if running is not lane[0])]:
        rows, owner = len(running.stage.rows), running.ticket.owner
        if most is not None and taken[owner] and taken[owner] + rows > most:
            continue
        if chosen and total + rows > cap:
            break  # first come, first finished: those left out follow as the older ones leave
        chosen.append(running)
        taken[owner] += rows
        total += rows
    return chosen


def count(batch: Iterable[Running]) -> int:
    """Rows of a call."""
    return sum(len(running.stage.rows) for running in batch)


def within(late: Iterable[Running], room: int) -> list[Running]:
    """The oldest of those who wait whose rows have room in the call of others."""
    chosen: list[Running] = []
    for running in late:
        if (room := room - len(running.stage.rows)) < 0:
            break
        chosen.append(running)
    return chosen


def turns(tickets: Iterable[Running], had: Callable[[Hashable], float] = lambda owner: 0.0) -> list[Running]:
    """One of each owner after the other, those who `had` less before those who had more."""
    seen: Counter[Hashable] = Counter()
    ranked: list[tuple[int, float, int, Running]] = []
    for number, running in enumerate(tickets):
        owner = running.ticket.owner
        ranked.append((seen[owner], had(owner), number, running))
        seen[owner] += 1
    return [running for *_, running in sorted(ranked, key=lambda entry: entry[:3])]


def is_enough(running: Running, call: float, began: float, *, brief: bool) -> bool:
    """Whether a step has decoded long enough: about twice as long as its denoiser call took, unless it is to be brief.

    Without an owner a picture is never kept waiting.
    """
    long = BRIEF if brief else max(BRIEF, 2 * call)
    return running.ticket.owner is not None and time.perf_counter() - began >= long
