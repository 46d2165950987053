"""B (A x) for rows of different adapters and ranks as one Triton kernel, for CUDA.

After Punica's SGMV (arXiv 2310.18547, section 4) with S-LoRA's ranks that are not padded (arXiv 2311.03285, section
5.3): one program works on a block of one row's tokens and a block of outputs, and goes over no more ranks than that row
has. Off unless a measurement on the device itself says that it beats batched matrix products (`faster`).
"""

from __future__ import annotations

import importlib.util
import os
import time
from functools import cache
from typing import Any

import torch
from torch import Tensor

_TOKENS, _OUTPUTS, _INNER = 64, 64, 64
_LEAST_RANK = 16
"""Of a tensor core's tile."""


def available() -> bool:
    """Whether Triton is here, and a GPU that it compiles for, or its interpreter in place of one."""
    if importlib.util.find_spec("triton") is None:
        return False
    return os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available()


@cache
def _kernel() -> Any:
    """Compiled on first use: importing Triton takes longer than anything that does without it."""
    from laur.core.pytorch.rows import triton_kernel

    return triton_kernel.low_rank


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor, ranks: Tensor) -> Tensor:
    """y[g] += (x[g] · down[g]) · up[g] for each run g. Returns y, changed in place.

    y (runs, L, out), x (runs, L, in), down (runs, in, R), up (runs, R, out), all contiguous; `ranks` (runs,) int32 are
    each run's own, at most R, which is a power of two from 16 on.
    """
    runs, length, inner = x.shape
    size, out = down.shape[2], up.shape[2]
    if size < _LEAST_RANK or size & (size - 1):
        raise ValueError(f"rank {size} is no power of two from {_LEAST_RANK} on; pad it")
    blocks = (runs, -(-length // _TOKENS), -(-out // _OUTPUTS))
    _kernel()[blocks](
        y, x, down, up, ranks, length, inner, out, RANK=size, TOKENS=_TOKENS, OUTPUTS=_OUTPUTS, INNER=_INNER
    )
    return y


@cache
def faster(sizes: tuple[int, int, int, int, int], dtype: torch.dtype) -> bool:
    """Whether the kernel beats two batched products on this machine's GPU; timed once for each size.

    `sizes` are runs, L, in, out and R.
    """
    if sizes[-1] < _LEAST_RANK or not available() or not torch.cuda.is_available():
        return False
    device = torch.device("cuda")
    runs, length, inner, out, rank = sizes
    shapes = ((runs, length, out), (runs, length, inner), (runs, inner, rank), (runs, rank, out))
    y, x, down, up = (torch.zeros(size, device=device, dtype=dtype) for size in shapes)
    ranks = torch.full((runs,), rank, device=device, dtype=torch.int32)
    try:
        ours = _seconds(lambda: add_low_rank(y, x, down, up, ranks))
    except Exception:  # whatever a compiler raises on a GPU it does not know
        return False
    return ours < _seconds(lambda: y.baddbmm_(torch.bmm(x, down), up))


def _seconds(run: Any) -> float:
    run()
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
