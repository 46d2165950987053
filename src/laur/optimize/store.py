"""Where adapters live: on disk, in the host's memory, and on the device as what a row adds.

Knowing an adapter costs its path. Its file is read once, when it is first drawn with or foreseen, by a thread beside
the one that draws; what was used longest ago leaves when the budget is spent, and comes back from disk when asked for.
The tiers are S-LoRA's (arXiv 2311.03285, sections 5.1 and 5.2).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laur.core.pytorch.rows.factors import Factors, RowSet, joined
from laur.optimize.deltas import LowRank

if TYPE_CHECKING:
    from laur.optimize.deltas import Delta
    from laur.optimize.layers import LayerShape
    from laur.utils.budget import Budget

Deltas = Mapping[str, "Delta"]
UNET = "unet."


class AdapterStore:
    """Deltas in host memory and row sets on the device, both out of one budget."""

    def __init__(self, budget: Budget, device: torch.device, dtype: torch.dtype) -> None:
        """`device` and `dtype` are the network's."""
        self._budget, self._device, self._dtype = budget, device, dtype
        self._host: dict[Hashable, Deltas] = {}
        self._sets: dict[Hashable, RowSet] = {}
        self._coming: dict[Hashable, Future[Deltas]] = {}
        self._lock = threading.Lock()
        self._reader: ThreadPoolExecutor | None = None
        self.reads = 0
        """How often an adapter came from disk."""

    def deltas(self, key: Hashable, read: Callable[[], Deltas]) -> Deltas:
        """An adapter's deltas for one model, in host memory; `read` fetches them where they are not there.

        Raises what `read` raises, and keeps nothing of it.
        """
        found = self._host.get(key)
        if found is not None:
            self._budget.touch(("deltas", key))
            return found
        with self._lock:
            coming = self._coming.get(key)
        return self._fetch(key, read) if coming is None else coming.result()

    def prefetch(self, key: Hashable, read: Callable[[], Deltas]) -> None:
        """Read an adapter in the background; an error shows when its deltas are asked for."""
        with self._lock:
            if key in self._host or key in self._coming:
                return
            if self._reader is None:
                self._reader = ThreadPoolExecutor(1, "laur-adapters")
            future = self._reader.submit(self._fetch, key, read)
            self._coming[key] = future
        future.add_done_callback(lambda _: self._arrived(key))

    def holds(self, key: Hashable) -> bool:
        """Whether an adapter's deltas are in host memory."""
        return key in self._host

    def is_coming(self, key: Hashable) -> bool:
        """Whether they are being read in the background."""
        return key in self._coming

    def row_set(self, key: Hashable, parts: Callable[[], Sequence[tuple[Deltas, float]]]) -> RowSet:
        """What a row with these deltas and weights adds to a UNet, on the device; `parts` only where it is new."""
        found = self._sets.get(key)
        if found is None:
            layers = summed(parts(), self._device, self._dtype)
            found = self._sets[key] = RowSet(layers, key)
        self.used(found)
        return found

    def used(self, rows: RowSet) -> None:
        """A row is drawn with this set: it stays for longer, at the size that it has grown to."""
        self._sets[rows.key] = rows
        self._budget.hold(("rows", rows.key), rows.nbytes, lambda: self._forget(rows.key))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)
            self._reader = None

    def _fetch(self, key: Hashable, read: Callable[[], Deltas]) -> Deltas:
        self.reads += 1
        deltas = read()
        if self._device.type == "cuda":
            deltas = {name: _pinned(delta) for name, delta in deltas.items()}
        self._host[key] = deltas
        size = sum(delta.nbytes for delta in deltas.values())
        self._budget.hold(("deltas", key), size, lambda: self._leave(key))
        return deltas

    def _arrived(self, key: Hashable) -> None:
        with self._lock:
            self._coming.pop(key, None)

    def _leave(self, key: Hashable) -> None:
        self._host.pop(key, None)

    def _forget(self, key: Hashable) -> None:
        self._sets.pop(key, None)


def fits_rows(deltas: Deltas, layers: Mapping[str, LayerShape], per_row: frozenset[str]) -> bool:
    """Whether all that deltas change in a UNet can differ between the rows of a batch."""
    return all(
        type(delta) is LowRank and name.removeprefix(UNET) in per_row and layers[name].groups == 1
        for name, delta in deltas.items()
        if name.startswith(UNET)
    )


def summed(parts: Sequence[tuple[Deltas, float]], device: torch.device, dtype: torch.dtype) -> dict[str, Factors]:
    """The sum of weighted low-rank deltas, by the layer's name within the UNet."""
    found: dict[str, list[Factors]] = {}
    for deltas, weight in parts:
        for name, delta in deltas.items():
            if weight and name.startswith(UNET) and isinstance(delta, LowRank):
                found.setdefault(name.removeprefix(UNET), []).append(_factors(delta, weight, device, dtype))
    return {name: joined(several) for name, several in found.items()}


def _factors(delta: LowRank, weight: float, device: torch.device, dtype: torch.dtype) -> Factors:
    up, down = delta.factors(device)
    kernel = delta.made_for[2:]
    if kernel and kernel != (1, 1):
        down = down.view(down.shape[0], *delta.made_for[1:])  # type: ignore[arg-type]
    return Factors((up * (weight * delta.scale)).to(dtype), down.to(dtype))


def _pinned(delta: Delta) -> Delta:
    """In memory that a GPU can read while the processor goes on."""
    if not isinstance(delta, LowRank):
        return delta

    def held(tensor: Tensor) -> Tensor:
        return tensor.pin_memory()

    return replace(delta, up=held(delta.up), down=held(delta.down), mid=None if delta.mid is None else held(delta.mid))
