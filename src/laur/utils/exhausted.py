"""Telling that memory ran out from all other faults."""

from __future__ import annotations


def is_exhausted(error: Exception) -> bool:
    """Whether torch or Python says that memory ran out: classes of their own, and on the CPU words of torch's."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)
