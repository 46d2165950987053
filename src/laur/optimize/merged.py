"""Adapters merged into a module's own weights, and taken out again bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from laur.core.errors import AdapterError
from laur.optimize.merge import merged_state

if TYPE_CHECKING:
    from laur.optimize.deltas import Delta


class Merged:
    """W + Σ weight · Δ in a module's parameters until `remove`, which puts back the very numbers that were there.

    Subtracting would not: (W + Δ) - Δ is rounded twice. So the touched originals are kept, and only those.

        with Merged(unet, "unet", [(deltas, 0.8)]):
            ...

    One at a time for a module: taking out the first of two would also take out the second. Errors: AdapterError where
    one is merged already; MismatchError where a delta does not fit, with nothing changed.
    """

    def __init__(
        self, module: torch.nn.Module, prefix: str, terms: Sequence[tuple[Mapping[str, Delta], float]]
    ) -> None:
        """`prefix` is the module's in canonical names: unet, text_encoder or text_encoder_2."""
        if getattr(module, _MARK, None) is not None:
            raise AdapterError("the module has adapters merged already; remove those first, or merge all together")
        parameters = {f"{prefix}.{name}": tensor for name, tensor in module.named_parameters()}
        own = [({n: d for n, d in deltas.items() if n.startswith(f"{prefix}.")}, weight) for deltas, weight in terms]
        changed = merged_state(parameters, own, torch.float32)
        self._module = module
        self._originals = {name: parameters[name].detach().clone() for name in changed}
        self._parameters = {name: parameters[name] for name in changed}
        setattr(module, _MARK, self)
        with torch.no_grad():
            for name, tensor in changed.items():
                parameters[name].copy_(tensor)

    @property
    def nbytes(self) -> int:
        """Memory that the kept originals take."""
        return sum(tensor.nbytes for tensor in self._originals.values())

    @torch.no_grad()
    def remove(self) -> None:
        """Put the originals back; a second time does nothing."""
        for name, tensor in self._originals.items():
            self._parameters[name].copy_(tensor)
        self._originals, self._parameters = {}, {}
        if getattr(self._module, _MARK, None) is self:
            delattr(self._module, _MARK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


_MARK = "_laur_merged"
