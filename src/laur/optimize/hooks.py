"""Running the hooks of weighted adapters.

An adapter's weight scales what its hook changes: 0 is nothing, 1 is the hook as it is, 2 is twice the change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from laur.core.errors import AdapterError, LaurError
from laur.optimize.base import BaseAdapter
from laur.utils.exhausted import is_exhausted

if TYPE_CHECKING:
    from torch import Tensor

    from laur.core.denoiser import Row

Weighted = tuple[BaseAdapter, float]


def overrides(adapter: BaseAdapter, hook: str) -> bool:
    """Whether the adapter has a `hook` ("rows", "tokens", "residuals", "on_x0", "deltas") of its own."""
    return getattr(type(adapter), hook) is not getattr(BaseAdapter, hook)


def hooked_x0(adapters: Iterable[Weighted], step: int, total: int, x0: Tensor) -> Tensor:
    """x0 + Σ weight · (hook(x0) - x0), one adapter after the other; `step` is 1 … `total`."""
    for adapter, weight in adapters:
        if weight and overrides(adapter, "on_x0"):
            with named(adapter, "on_x0"):
                changed = adapter.on_x0(step, total, x0)
                if changed.shape != x0.shape:
                    raise ValueError(f"it gave shape {tuple(changed.shape)} for {tuple(x0.shape)}")
            x0 = changed if weight == 1 else x0.lerp(changed, weight)
    return x0


def hooked_rows(adapters: Sequence[Weighted], rows: list[Row]) -> list[Row]:
    """Rows after each adapter's `rows`, with its tokens appended and its residuals, times its weight, added."""
    for adapter, weight in adapters:
        if not weight:
            continue
        with named(adapter, "rows"):
            changed = adapter.rows(rows)
            if [row.latent.shape for row in changed] != [row.latent.shape for row in rows]:
                raise ValueError("it must give as many rows as it was given, with latents of the same shape")
            rows = changed
        if overrides(adapter, "tokens") or overrides(adapter, "residuals"):
            with named(adapter, "tokens or residuals"):
                rows = [_conditioned(adapter, weight, row) for row in rows]
    return rows


@contextmanager
def named(adapter: BaseAdapter, hook: str) -> Generator[None]:
    """Whatever an adapter's code raises becomes an AdapterError, so that it fails its own picture and no other."""
    try:
        yield
    except LaurError:
        raise
    except Exception as error:
        if is_exhausted(error):  # no fault of the adapter's
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise AdapterError(f"adapter {adapter.name or type(adapter).__name__!r} failed in {hook}: {reason}") from error


def _conditioned(adapter: BaseAdapter, weight: float, row: Row) -> Row:
    import torch

    tokens, residuals = adapter.tokens(row), adapter.residuals(row)
    if tokens is not None:
        tokens = tokens if row.image_tokens is None else torch.cat([row.image_tokens, tokens])
        row = dataclasses.replace(row, image_tokens=tokens)
    if residuals is not None:
        scaled = tuple(residual * weight for residual in residuals)
        if row.residuals is not None:
            scaled = tuple(a + b for a, b in zip(row.residuals, scaled, strict=True))
        row = dataclasses.replace(row, residuals=scaled)
    return row
