"""The pictures of a prepared set, as they are kept or decoded from its latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from laur.train.data.reader import TrainingSet

TOGETHER = 16


def originals(data: TrainingSet, places: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """(n, H, W, 3), some at a time, in order.

    A set without pictures is decoded by the autoencoder that encoded it: then its losses are on both sides.
    Errors: those of loading that checkpoint.
    """
    decoder = None
    for start in range(0, len(places), TOGETHER):
        part = np.array(places[start : start + TOGETHER], dtype=np.int64)
        for bucket in _runs(data.bucket[part]):
            some = part[bucket]
            if data.info.keeps_pixels:
                pixels = ((data.pixels(some) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
                yield pixels.contiguous().numpy()
                continue
            if decoder is None:
                from laur.pipeline.device import choose
                from laur.pipeline.library import Library

                library = Library(choose(None))
                decoder = library.decoder(library.checkpoint(data.info.model).key)
            yield decoder.decode(data.latents(some)).cpu().numpy()


def _runs(buckets: NDArray[np.int32]) -> list[slice]:
    """Stretches of pictures of one bucket."""
    cuts = [0, *(np.flatnonzero(np.diff(buckets)) + 1).tolist(), len(buckets)]
    return [slice(a, b) for a, b in pairwise(cuts)]
