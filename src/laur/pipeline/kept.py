"""A few built things that are dear to build: merged networks, text encoders."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from laur.utils.budget import Budget

T = TypeVar("T")


class Kept(Generic[T]):
    """The things used last, by key. The last of all is in use; the others count in the budget, and leave for it.

    One thread asks. Any thread that calls the budget may make things leave that are not in use.
    """

    def __init__(
        self, limit: int, budget: Budget, size: Callable[[T], int], ended: Callable[[T], None] = lambda _: None
    ) -> None:
        """At most `limit` things; `size` says how many bytes one takes, `ended` is called with each that leaves."""
        self._limit, self._budget, self._size, self._ended = limit, budget, size, ended
        self._things: OrderedDict[Hashable, T] = OrderedDict()
        self._in_use: Hashable = None
        self._counted: dict[Hashable, object] = {}
        """Those in the budget, with a mark of when they were given to it: a call to leave may come late."""
        self._lock = threading.Lock()
        """Never held while the budget is called, or anything built."""

    def __iter__(self) -> Iterator[Hashable]:
        with self._lock:
            return iter(list(self._things))

    def __len__(self) -> int:
        return len(self._things)

    def __getitem__(self, key: Hashable) -> T:
        return self._things[key]

    def __setitem__(self, key: Hashable, thing: T) -> None:
        """Put another thing in the place of one that is kept."""
        with self._lock:
            assert key in self._things
            self._things[key] = thing

    @contextmanager
    def room_for(self, count: int) -> Generator[None]:
        """While it lasts at least so many stay, whatever the limit: they are used in turns."""
        before, self._limit = self._limit, max(self._limit, count)
        try:
            yield
        finally:
            self._limit = before

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """The thing of that key; the least recently used one makes room before another is built."""
        with self._lock:
            if key == self._in_use and key in self._things:
                return self._things[key]
            last, self._in_use = self._in_use, key
            before = self._things.get(last)
            self._counted.pop(key, None)
        self._budget.release((self, key))
        if before is not None and last != key:
            self._count(last, before)
        with self._lock:
            if key in self._things:
                self._things.move_to_end(key)
                return self._things[key]
            spare = list(self._things)[: max(len(self._things) + 1 - self._limit, 0)]
        for other in spare:
            self._drop(other)
        thing = build()
        with self._lock:
            self._things[key] = thing
        return thing

    def _count(self, key: Hashable, thing: T) -> None:
        mark = object()
        with self._lock:
            self._counted[key] = mark
        self._budget.hold((self, key), self._size(thing), lambda: self._leave(key, mark))

    def _leave(self, key: Hashable, mark: object) -> None:
        """For the budget, which counts it no more."""
        with self._lock:
            if self._counted.get(key) is not mark:
                return
            del self._counted[key]
            thing = self._things.pop(key, None)
        if thing is not None:
            self._ended(thing)

    def _drop(self, key: Hashable) -> None:
        with self._lock:
            self._counted.pop(key, None)
            thing = self._things.pop(key, None)
        self._budget.release((self, key))
        if thing is not None:
            self._ended(thing)
