"""How the process's memory goes back to the system."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 32 * 2**20
"""The largest threshold that glibc takes (DEFAULT_MMAP_THRESHOLD_MAX on 64 bits)."""
KEPT = 2**31 - 1
"""Bytes at the end of the heap that stay with the process: an int's largest value, for that is how it is told."""


def keep_freed_memory() -> bool:
    """Let freed blocks of up to 32 MiB stay with this process; whether its C library is one that can be told (glibc).

    A training frees the activations of one update and asks for the same ones in the next. glibc gives the end of its
    heap back to the system in between, and every page of it is then faulted in and zeroed anew (mallopt(3)). Two
    gigabytes at most are kept at the heap's end. PyTorch is told to ask for pages of 2 MiB where it takes as much at
    once, which it hears until it first allocates something.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # setting either one ends glibc's own moving of both, so both are set
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
