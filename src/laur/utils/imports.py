"""Importing a large library without paying for garbage collection on the way."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Generator[None]:
    """Pause Python's cyclic collector while thousands of modules are imported, none of which is garbage.

    Importing torch, diffusers and transformers takes about a fifth less time so. The collector is left as it was found.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
