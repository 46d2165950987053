"""The abstract encoder: something from outside becomes tensors that condition a denoiser.

Text is its first form; pictures and sketches are others. An encoder takes one item at a time, so that no neighbour in
a batch can change what an item becomes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class States:
    """What an encoder says of one item. May be shared by a cache: never write into its tensors."""

    context: Tensor
    """(L, D), in the encoder's dtype and on its device; the denoiser casts it to its own."""
    pooled: Tensor | None = None
    """(P,) a summary of the whole item, for models that take one (SDXL)."""

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.context.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


class Vectorize(ABC, Generic[T]):
    """Turns items of type T into States, a pure function of the item and of `fingerprint`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names everything but the item that the states depend on: weights, dtype, device. For cache keys."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the network lives and the states come out."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the network and of the states."""

    @abstractmethod
    def encode(self, item: T) -> States:
        """The states of one item."""

    def encode_each(self, items: Sequence[T]) -> list[States]:
        """The states of each item, exactly those that `encode` gives it alone."""
        return [self.encode(item) for item in items]
