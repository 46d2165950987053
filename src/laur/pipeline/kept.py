"""A few built things that are dear to build: merged networks, text encoders."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from laur.utils.budget import Budget

T = TypeVar("T")


class Kept(Generic[T]):
    """The things used last, by key. The last of all is in use; the others count in the budget, and leave for it."""

    def __init__(self, limit: int, budget: Budget, size: Callable[[T], int]) -> None:
        """At most `limit` things; `size` says how many bytes one takes."""
        self._limit, self._budget, self._size = limit, budget, size
        self._things: OrderedDict[Hashable, T] = OrderedDict()

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)

    def __getitem__(self, key: Hashable) -> T:
        return self._things[key]

    def __setitem__(self, key: Hashable, thing: T) -> None:
        """Put another thing in the place of one that is kept."""
        assert key in self._things
        self._things[key] = thing

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """The thing of that key; the least recently used one makes room before another is built."""
        last = next(reversed(self._things), None)
        if key == last:
            return self._things[key]
        if last is not None:
            self._budget.hold((self, last), self._size(self._things[last]), lambda: self._drop(last))
        self._budget.release((self, key))
        if key not in self._things:
            while len(self._things) >= self._limit:
                self._drop(next(iter(self._things)))
            self._things[key] = build()
        self._things.move_to_end(key)
        return self._things[key]

    def _drop(self, key: Hashable) -> None:
        self._things.pop(key, None)
        self._budget.release((self, key))
