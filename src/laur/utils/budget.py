"""One limit in bytes for many caches: whatever was used longest ago leaves first, whichever cache holds it.

The unified pool of S-LoRA (arXiv 2311.03285, section 5.1), by entries in place of pages: what a diffusion model keeps
is of few sizes and lives for whole requests, so there is nothing to defragment.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class _Held:
    nbytes: int
    drop: Callable[[], object]


class Budget:
    """Bytes that several caches share. Safe to share between threads.

    A cache holds its entries itself and tells the budget of each; when room is needed the budget calls an entry's
    `drop`, outside its own lock, and the cache lets go. Call the budget outside the cache's lock too.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in bytes. The entry held last stays even where it alone is larger: it is in use."""
        if limit < 0:
            raise ValueError(f"a budget cannot be {limit} bytes")
        self.limit = limit
        self._held: OrderedDict[Hashable, _Held] = OrderedDict()
        self._used = self._most = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    @property
    def most(self) -> int:
        """Most bytes that were ever held at once."""
        return self._most

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def hold(self, key: Hashable, nbytes: int, drop: Callable[[], object]) -> None:
        """Count an entry, or its new size, as the one used last; others leave to make room for it."""
        with self._lock:
            before = self._held.pop(key, None)
            self._used += nbytes - (0 if before is None else before.nbytes)
            self._held[key] = _Held(nbytes, drop)
            leaving: list[_Held] = []
            while self._used > self.limit and len(self._held) > 1:
                _, old = self._held.popitem(last=False)
                self._used -= old.nbytes
                leaving.append(old)
            self._most = max(self._most, self._used)
        for old in leaving:
            old.drop()

    def touch(self, key: Hashable) -> None:
        """The entry was used; nothing where it has left."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)

    def release(self, key: Hashable) -> None:
        """The entry is gone; nothing where it has left already."""
        with self._lock:
            old = self._held.pop(key, None)
            if old is not None:
                self._used -= old.nbytes
