"""A cache of states, bounded in bytes: the same text is encoded once, however many pictures ask for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from laur.core.plan import AdapterUse
from laur.input.vectorize import States
from laur.utils.budget import Budget

DEFAULT_BYTES = 64 * 2**20
"""Some 270 SD 1.x prompts in float32, 100 SDXL prompts, 1,300 of mini's."""


@dataclass(frozen=True, slots=True)
class StatesKey:
    """All that states depend on."""

    fingerprint: str
    """`Vectorize.fingerprint`."""
    item: Hashable
    """What is encoded, a TextSpec say."""
    adapters: tuple[AdapterUse, ...] = ()
    """Those that touch the encoder, as applied; leave the others out, or nothing is shared."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache holds and how well it served so far."""

    hits: int
    misses: int
    entries: int
    nbytes: int


class Sized(Protocol):
    """What says how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)


class BoundedCache(Generic[K, V]):
    """Values bounded in bytes: the least recently used leave first. Safe to share between threads.

    Tensors are handed out as they are, not copied: whoever gets them must not write into them.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        """`max_bytes` bounds the tensors held; 0 keeps nothing."""
        if max_bytes < 0:
            raise ValueError(f"a cache cannot hold {max_bytes} bytes")
        self.max_bytes = max_bytes
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._nbytes = self._hits = self._misses = 0
        self._lock = threading.Lock()
        self._budget: Budget | None = None

    def share(self, budget: Budget) -> None:
        """Take what is held out of a budget that other caches share, in place of the own bound."""
        self._budget, self.max_bytes = budget, budget.limit

    def get(self, key: K) -> V | None:
        """The value of `key`, now the most recently used; None where it is not held. Counts a hit or a miss."""
        with self._lock:
            value = self._entries.get(key)
            if value is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
        if self._budget is not None:
            self._budget.touch((self, key))
        return value

    def put(self, key: K, value: V) -> None:
        """Hold a value, letting go of the least recently used; what exceeds the whole cache is not held."""
        with self._lock:
            self._drop(key)
            if value.nbytes > self.max_bytes:
                return
            while self._nbytes + value.nbytes > self.max_bytes:
                self._drop(next(iter(self._entries)))
            self._entries[key] = value
            self._nbytes += value.nbytes
        if self._budget is not None:
            self._budget.hold((self, key), value.nbytes, lambda: self._leave(key))

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """The value held, or the one that `make` gives, which is then held.

        `make` runs outside the lock: two threads that miss the same key at once both run it, and agree.
        """
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value

    def clear(self) -> None:
        """Let go of everything; the counts stay."""
        with self._lock:
            keys = list(self._entries)
            self._entries.clear()
            self._nbytes = 0
        for key in keys:
            if self._budget is not None:
                self._budget.release((self, key))

    @property
    def stats(self) -> CacheStats:
        """A consistent snapshot."""
        with self._lock:
            return CacheStats(self._hits, self._misses, len(self._entries), self._nbytes)

    def _leave(self, key: K) -> None:
        with self._lock:
            self._drop(key)

    def _drop(self, key: K) -> None:
        value = self._entries.pop(key, None)
        if value is not None:
            self._nbytes -= value.nbytes


class StatesCache(BoundedCache[StatesKey, States]):
    """The states of texts."""
