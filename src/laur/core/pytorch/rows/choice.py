"""Where a weight merged for each set beats the low-rank product, on a CPU.

Decided by the layer and the map's size alone, never by who else is in the batch, so that a picture's arithmetic is its
own. A product costs two small matrix products at every step; a merged weight costs one pass over the layer's weight
when a set first meets it, and memory, and nothing after that. On large maps of few channels merging wins by far, on
small maps of many channels it never pays.
"""

from __future__ import annotations

_STEPS = 4
"""Over which a merge must pay: what distilled models take."""
_RANK = 16
"""Of a usual style; the rank cancels out of the choice but for what packing costs."""
_PACKING = 50
"""Cost of packing one weight, in products; measured: 0.26 ms for 128 x 128 x 3 x 3 on one Zen 4 core."""
_MARGIN = 2.0
"""How much better merging must be: calls by row are a little slower than one for all, and merged weights take room."""


def merges(out: int, inner: int, positions: int) -> bool:
    """Whether to merge a layer of weight (out, inner) that is applied at `positions` places of each row.

    `inner` counts a convolution's taps. Measured at 16 rows, rank 16, bfloat16: 3x3 of 128 channels at 32x32 takes 52
    ms plain, 64 merged by row, 71 as a product; of 320 channels at 8x8 it takes 15.8, 17.7 and 19.0, but merging costs
    1.3 ms for each row.
    """
    product = positions * _RANK * (inner + out) * _STEPS
    merging = out * inner * (_RANK + _PACKING)
    return product > _MARGIN * merging
