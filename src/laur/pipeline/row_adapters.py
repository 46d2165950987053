"""Which of a stage's adapters are merged into the network, and what the others add to each row.

Decided by the adapters themselves, never by who else is in the batch: accelerators are merged, since nearly every
request of a checkpoint has the same one; so is whatever is no sum of low-rank factors (dense, Kronecker and scaling
differences, DoRA) or changes layers that cannot differ between rows. All else is added row by row, so that requests of
any styles share one pass.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from laur.core.errors import AdapterError, LaurError, MismatchError
from laur.optimize.blocks import terms
from laur.utils.exhausted import is_exhausted

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from laur.core.plan import AdapterUse
    from laur.core.pytorch.rows.factors import RowSet
    from laur.optimize.deltas import Delta
    from laur.optimize.store import AdapterStore
    from laur.pipeline.library import Library

Uses = tuple["AdapterUse", ...]


class RowAdapters:
    """A Library's adapters as one batch needs them."""

    def __init__(self, library: Library, store: AdapterStore, *, enabled: bool = True) -> None:
        """Without `enabled` everything is merged."""
        self._library, self.store, self._enabled = library, store, enabled
        self._merged: dict[tuple[str, str], bool] = {}
        self._per_row: dict[str, frozenset[str]] = {}

    def deltas(self, checkpoint: str, sha256: str) -> Mapping[str, Delta]:
        """An adapter's deltas for every component of a checkpoint, read once. Raises AdapterError, MismatchError."""
        return self.store.deltas((checkpoint, sha256), lambda: self._read(checkpoint, sha256))

    def prefetch(self, checkpoint: str, uses: Uses) -> None:
        """Have adapters read while others are drawn; those known to be merged are looked at when that is due."""
        for use in uses:
            key = (checkpoint, use.sha256)
            if use.weight and not self._merged.get(key):
                self.store.prefetch(key, lambda use=use: self._read(checkpoint, use.sha256))

    def pinned(self, checkpoint: str, uses: Uses) -> Uses:
        """Those that are merged into the network."""
        return uses if not self._enabled else tuple(use for use in uses if self._merges(checkpoint, use))

    def row_set(self, checkpoint: str, uses: Uses) -> RowSet | None:
        """What the others add to a row; None for nothing. Raises AdapterError, MismatchError."""
        if not self._enabled:
            return None
        own = tuple(use for use in uses if use.weight and not self._merges(checkpoint, use))
        own = tuple(use for use in own if any(name.startswith("unet.") for name in self.deltas(checkpoint, use.sha256)))
        if not own:
            return None
        parts = [part for use in own for part in self.terms(checkpoint, use)]
        with self.faults(own):
            return self.store.row_set((checkpoint, own), lambda: parts)

    @contextmanager
    def faults(self, uses: Uses) -> Generator[None]:
        """Whatever goes wrong as adapters are put together or merged is theirs: AdapterError, which fails their own
        picture and no other."""
        try:
            yield
        except LaurError:
            raise
        except Exception as error:
            if is_exhausted(error):
                raise
            names = ", ".join(self._library.by_content(use.sha256).name or use.sha256[:10] for use in uses)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise AdapterError(f"the weights of {names} cannot be put together: {reason}") from error

    def terms(self, checkpoint: str, use: AdapterUse) -> list[tuple[Mapping[str, Delta], float]]:
        """An adapter's deltas with their weights, which may differ by block. Raises AdapterError, MismatchError."""
        return terms(self.deltas(checkpoint, use.sha256), use.weight, use.by_block)

    def _merges(self, checkpoint: str, use: AdapterUse) -> bool:
        key = (checkpoint, use.sha256)
        if key not in self._merged:
            self._merged[key] = self._must_merge(checkpoint, use)
        return self._merged[key]

    def _must_merge(self, checkpoint: str, use: AdapterUse) -> bool:
        from laur.optimize.store import fits_rows

        if self._library.by_content(use.sha256).recommends.accelerates:
            return True
        deltas = self.deltas(checkpoint, use.sha256)
        if not any(name.startswith("unet.") for name in deltas):
            return False
        return not fits_rows(deltas, self._library.layers(checkpoint), self._rows_of(checkpoint))

    def _rows_of(self, checkpoint: str) -> frozenset[str]:
        """The layers that may differ between rows; the checkpoint's own network tells, without any weights packed."""
        if checkpoint not in self._per_row:
            self._per_row[checkpoint] = self._library.network(checkpoint).per_row
        return self._per_row[checkpoint]

    def _read(self, checkpoint: str, sha256: str) -> Mapping[str, Delta]:
        from laur.optimize.hooks import named

        layers = self._library.layers(checkpoint)
        adapter = self._library.by_content(sha256)
        with named(adapter, "deltas"):
            deltas = adapter.deltas(layers)
            for name, delta in deltas.items():
                if name.endswith(".bias"):  # merged, and checked there
                    continue
                if name not in layers:
                    raise MismatchError(
                        f"an adapter changes {name}, which this model does not have; see `laur inspect`"
                    )
                delta.check(name, layers[name])
        return deltas
