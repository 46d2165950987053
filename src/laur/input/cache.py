"""A cache of states, bounded in bytes: the same text is encoded once, however many pictures ask for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from laur.core.plan import AdapterUse
from laur.input.vectorize import States

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


class StatesCache:
    """Least recently used states leave first. Safe to share between threads.

    The tensors are handed out as they are, not copied: whoever gets them must not write into them.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        """`max_bytes` bounds the tensors held; 0 keeps nothing."""
        if max_bytes < 0:
            raise ValueError(f"a cache cannot hold {max_bytes} bytes")
        self.max_bytes = max_bytes
        self._entries: OrderedDict[StatesKey, States] = OrderedDict()
        self._nbytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    def get(self, key: StatesKey) -> States | None:
        """The states of `key`, now the most recently used; None where they are not held. Counts a hit or a miss."""
        with self._lock:
            states = self._entries.get(key)
            if states is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return states

    def put(self, key: StatesKey, states: States) -> None:
        """Hold states, letting go of the least recently used; what exceeds the whole cache is not held."""
        with self._lock:
            self._drop(key)
            if states.nbytes > self.max_bytes:
                return
            while self._nbytes + states.nbytes > self.max_bytes:
                self._drop(next(iter(self._entries)))
            self._entries[key] = states
            self._nbytes += states.nbytes

    def get_or_make(self, key: StatesKey, make: Callable[[], States]) -> States:
        """The states held, or those that `make` gives, which are then held.

        `make` runs outside the lock: two threads that miss the same key at once both run it, and agree.
        """
        states = self.get(key)
        if states is None:
            states = make()
            self.put(key, states)
        return states

    def clear(self) -> None:
        """Let go of everything; the counts stay."""
        with self._lock:
            self._entries.clear()
            self._nbytes = 0

    @property
    def stats(self) -> CacheStats:
        """A consistent snapshot."""
        with self._lock:
            return CacheStats(self._hits, self._misses, len(self._entries), self._nbytes)

    def _drop(self, key: StatesKey) -> None:
        states = self._entries.pop(key, None)
        if states is not None:
            self._nbytes -= states.nbytes
