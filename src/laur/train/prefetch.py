"""The next batch is made while a GPU works on this one."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from laur.train.batch import Batch
    from laur.train.draws import Draws
    from laur.train.loop import Feeding


class Prefetch:
    """A feed that is one slice ahead of the loop, in a thread.

    What a batch holds is a function of the update and the rows alone, so that being ahead changes nothing; a fault in
    making a batch is raised where that batch is asked for. On a CPU it would only take cores from the training.
    """

    def __init__(self, feed: Feeding, slices: Sequence[slice]) -> None:
        """`slices` are those that every update asks for, in order."""
        self._feed = feed
        self._slices = list(slices)
        self._pool = ThreadPoolExecutor(1, "laur-feed")
        self._ahead: dict[tuple[int, int], Future[tuple[Batch, Draws]]] = {}

    def batch(self, update: int, rows: slice) -> tuple[Batch, Draws]:
        """See `laur.train.loop.Feeding`."""
        place = self._slices.index(rows)
        now = self._asked(update, place)
        following = (update + 1, 0) if place + 1 == len(self._slices) else (update, place + 1)
        self._ahead = {following: self._asked(*following)}
        return now.result()

    def close(self) -> None:
        """Stop being ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _asked(self, update: int, place: int) -> Future[tuple[Batch, Draws]]:
        known = self._ahead.pop((update, place), None)
        return known or self._pool.submit(self._feed.batch, update, self._slices[place])
