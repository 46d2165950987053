"""Memory that is freed and asked for again costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import ctypes, resource, sys
from laur.utils.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else None
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def filled(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    return block
counts = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for block in [filled(4 * 2**20) for _ in range(40)][::-1]:
        libc.free(block)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, counts[-1])
"""


def faults(mode: str) -> tuple[str, int]:
    """What the call said, and page faults of a third round of allocating and freeing the same 160 MiB."""
    command = [sys.executable, "-c", ROUNDS, mode]
    kept, count = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_stays_where_it_is_kept() -> None:
    said, kept = faults("kept")
    assert said == "True"
    _, given_back = faults("given back")
    assert kept < 0.05 * given_back


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from laur.utils import allocator

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory() is False
