"""Which pictures an update sees: a function of the seed and the update's number, so that nothing has to be saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Order:
    """Batches of one shape each. Without weights every picture comes once an epoch; with them, as often as they say.

    A bucket whose pictures do not fill its last batch fills it up with some of its own again.
    """

    def __init__(
        self,
        buckets: NDArray[Any],
        weights: NDArray[Any] | None,
        seed: int,
        global_batch: int,
        left_out: NDArray[np.bool_] | None = None,
    ) -> None:
        """`buckets` (n,) the shape's number of each picture, `weights` (n,) or None, `left_out` (n,) those that never
        come. Errors: DataError."""
        if len(buckets) == 0:
            raise DataError("the set holds no pictures")
        places = np.arange(len(buckets)) if left_out is None else np.flatnonzero(~left_out)
        if len(places) == 0:
            raise DataError("all pictures of the set are held out; leave data.hold_out out, or prepare more")
        self._seed, self._size = seed, global_batch
        self._members = {int(b): places[buckets[places] == b] for b in np.unique(buckets[places])}
        self._sums: dict[int, NDArray[np.float64]] | None = None
        if weights is not None:
            if not float(weights[places].sum()) > 0:
                raise DataError("the mix leaves no picture to draw; give at least one style of the set a weight")
            self._sums = {b: np.cumsum(weights[m], dtype=np.float64) for b, m in self._members.items()}
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return sum(-(-len(members) // self._size) for members in self._members.values())

    def indices(self, update: int) -> NDArray[np.int64]:
        """(global batch,) places in the set."""
        if self._sums is not None:
            return self._drawn(update, self._sums)
        epoch, place = divmod(update, self.batches)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][place]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        """(batches, global batch) of one epoch."""
        random = np.random.default_rng([self._seed, epoch])
        parts: list[NDArray[np.int64]] = []
        for members in self._members.values():
            shuffled = random.permutation(members)
            count = -(-len(members) // self._size)
            parts.append(np.resize(shuffled, (count, self._size)))
        return random.permutation(np.concatenate(parts))

    def _drawn(self, update: int, sums: dict[int, NDArray[np.float64]]) -> NDArray[np.int64]:
        random = np.random.default_rng([self._seed, update, 1])
        totals = np.array([part[-1] for part in sums.values()])
        bucket = list(sums)[int(np.searchsorted(np.cumsum(totals), random.random() * totals.sum(), side="right"))]
        places = np.searchsorted(sums[bucket], random.random(self._size) * sums[bucket][-1], side="right")
        return self._members[bucket][places]
