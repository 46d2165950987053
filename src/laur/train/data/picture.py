"""One picture on its way into a set, and what every source gives."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture as it will be learned from, before it is brought to its bucket's size."""

    image: Image
    """RGB, upright, on white."""
    captions: tuple[str, ...]
    """Short to long; one is picked at each draw."""


class Skip(Exception):  # noqa: N818 - no error: it is counted, and the preparation goes on
    """A picture that cannot be learned from; the message says why."""


FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Of the system, not of one picture."""


def is_fault(error: OSError) -> bool:
    """Whether the preparation cannot go on: as a skipped picture it would be left out of the set for good."""
    return error.errno in FAULTS


class Record(Protocol):
    """A picture that a source holds. Small: it is drawn in a worker, when its turn comes."""

    @property
    def name(self) -> str:
        """Unique in its source."""
        ...

    @property
    def style(self) -> str:
        """The label that a mix of styles is made by; empty where there is none."""
        ...

    @property
    def licence(self) -> str:
        """As its publisher says."""
        ...

    @property
    def origin(self) -> str:
        """Package, museum or folder."""
        ...

    def draw(self, size: int) -> Drawn:
        """Read or render it, about `size` pixels a side. Raises Skip."""
        ...


class Source(Protocol):
    """Where pictures come from. The order of the records is always the same."""

    square: bool
    """Whether every picture fills a square, so that there is one bucket."""

    def describe(self) -> Mapping[str, Any]:
        """What it is, by content: the same description means the same records."""
        ...

    def __len__(self) -> int: ...

    def records(self, start: int, stop: int) -> Iterator[Record]:
        """Some of them."""
        ...


def unit(*words: object) -> float:
    """A number in [0, 1) that hangs on the words alone."""
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:7], "little") / 2**56
