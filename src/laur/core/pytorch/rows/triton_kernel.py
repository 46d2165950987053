"""The kernel of `laur.core.pytorch.rows.kernel`; importing it imports Triton."""
# pyright: basic, reportUnknownMemberType=false

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def low_rank(  # noqa: PLR0917 - launched by position
    y: Any,
    x: Any,
    down: Any,
    up: Any,
    ranks: Any,
    length: Any,
    inner: Any,
    out: Any,
    RANK: tl.constexpr,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INNER: tl.constexpr,
) -> None:
    """One run's block of tokens and outputs: y += (x · down) · up, contiguous (runs, …) tensors, sums in float32."""
    run = tl.program_id(0).to(tl.int64)
    tokens = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    outputs = tl.program_id(2) * OUTPUTS + tl.arange(0, OUTPUTS)
    rank = tl.arange(0, RANK)
    own = rank < tl.load(ranks + run)
    inside = tokens < length
    low = tl.zeros((TOKENS, RANK), dtype=tl.float32)
    for start in range(0, inner, INNER):
        column = start + tl.arange(0, INNER)
        there = column < inner
        a = tl.load(
            x + run * length * inner + tokens[:, None] * inner + column[None, :],
            mask=inside[:, None] & there[None, :],
            other=0.0,
        )
        b = tl.load(
            down + run * inner * RANK + column[:, None] * RANK + rank[None, :],
            mask=there[:, None] & own[None, :],
            other=0.0,
        )
        low = tl.dot(a, b, acc=low, input_precision="ieee")
    wide = outputs < out
    c = tl.load(
        up + run * RANK * out + rank[:, None] * out + outputs[None, :], mask=own[:, None] & wide[None, :], other=0.0
    )
    place = y + run * length * out + tokens[:, None] * out + outputs[None, :]
    some = inside[:, None] & wide[None, :]
    before = tl.load(place, mask=some, other=0.0)
    delta = tl.dot(low.to(c.dtype), c, input_precision="ieee")
    tl.store(place, (before.to(tl.float32) + delta).to(before.dtype), mask=some)
