"""Which pictures an update sees: a function of the seed and the update's number, so that nothing has to be saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Order:
    """Batches of one shape each. Without weights all pictures come equally often; with them, as often as they say.

    Without weights each bucket's pictures are one endless row of permutations, cut into batches, and a bucket's turn
    comes as often as it has pictures: of n pictures, in every n updates, all come as often as there are pictures in a
    batch. With one bucket that is plain epochs, of which one begins in the batch where another ends.
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
        self._turns: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._rows: dict[tuple[int, int], NDArray[np.int64]] = {}

    def indices(self, update: int) -> NDArray[np.int64]:
        """(global batch,) places in the set."""
        if self._sums is not None:
            return self._drawn(update, self._sums)
        bucket, batch = self._turn(update)
        count = len(self._members[bucket])
        first = batch * self._size
        epochs = range(first // count, (first + self._size - 1) // count + 1)
        row = np.concatenate([self._permuted(bucket, epoch) for epoch in epochs])
        first -= epochs[0] * count
        return row[first : first + self._size]

    def _turn(self, update: int) -> tuple[int, int]:
        """Whose turn it is, and which of the bucket's own batches that is."""
        if len(self._members) == 1:
            return next(iter(self._members)), update
        counts = [len(members) for members in self._members.values()]
        period, place = divmod(update, sum(counts))
        if self._turns is None or self._turns[0] != period:
            random = np.random.default_rng([self._seed, period, 2])
            # a bucket's turns are spread over the period: one in each of as many equal parts of it
            times = np.concatenate([(np.arange(count) + random.random(count)) / count for count in counts])
            order = np.argsort(times, kind="stable")
            whose = np.repeat(np.arange(len(counts)), counts)[order]
            within = np.concatenate([np.arange(count) for count in counts])[order]
            self._turns = (period, whose, within)
        _, whose, within = self._turns
        number = int(whose[place])
        return list(self._members)[number], period * counts[number] + int(within[place])

    def _permuted(self, bucket: int, epoch: int) -> NDArray[np.int64]:
        """The bucket's pictures in one epoch's order; what earlier epochs of it held is forgotten."""
        key = (bucket, epoch)
        if key not in self._rows:
            self._rows = {of: row for of, row in self._rows.items() if of[0] != bucket or of[1] == epoch - 1}
            self._rows[key] = np.random.default_rng([self._seed, bucket, epoch]).permutation(self._members[bucket])
        return self._rows[key]

    def _drawn(self, update: int, sums: dict[int, NDArray[np.float64]]) -> NDArray[np.int64]:
        random = np.random.default_rng([self._seed, update, 1])
        totals = np.array([part[-1] for part in sums.values()])
        bucket = list(sums)[int(np.searchsorted(np.cumsum(totals), random.random() * totals.sum(), side="right"))]
        places = np.searchsorted(sums[bucket], random.random(self._size) * sums[bucket][-1], side="right")
        return self._members[bucket][places]
