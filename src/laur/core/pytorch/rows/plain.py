"""Per-row products on modules as diffusers has them, by hooks that stay for one call."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from laur.core.pytorch.rows.batch import RowBatch, RowBatches
from laur.core.pytorch.rows.factors import Fused, RowSet
from laur.core.pytorch.rows.product import add_conv, add_linear, add_pixels

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


class PlainRows:
    """The linears and convolutions of a module, each row with its own difference."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.names = frozenset(name for name, layer in module.named_modules() if _simple(layer))
        """Layers that may differ between rows."""
        self._batches = RowBatches()

    @contextmanager
    def applied(self, sets: Sequence[RowSet | None] | None, done: frozenset[str] = frozenset()) -> Generator[None]:
        """While it lasts, row i of a call has the set i; the layers in `done` have it already."""
        if sets is None or not any(sets):
            yield
            return
        batch = self._batches.of(sets)
        names = {name for run in batch.runs for name in run.rows.layers} - done
        handles = [self._layer(name).register_forward_hook(_hook(batch, name)) for name in names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _layer(self, name: str) -> nn.Module:
        return self._module.get_submodule(name)


def _simple(layer: nn.Module) -> bool:
    if type(layer) is nn.Linear:
        return True
    return type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros"


def _hook(batch: RowBatch, name: str) -> Hook:
    def linear(layer: nn.Module, inputs: tuple[Any, ...], y: Any) -> Any:
        x, y = cast("Tensor", inputs[0]), cast("Tensor", y)
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        out = y.clone().view(y.shape[0], -1, y.shape[-1])
        groups = batch.groups(Fused.single(name, y.shape[-1]))
        return add_linear(out, flat, groups).view(y.shape)

    def conv(layer: nn.Module, inputs: tuple[Any, ...], y: Any) -> Any:
        found = cast("nn.Conv2d", layer)
        x, y = cast("Tensor", inputs[0]), cast("Tensor", y).clone()
        if found.kernel_size == (1, 1) and found.stride == (1, 1) and found.padding == (0, 0):
            return add_pixels(y, x, batch, Fused.single(name, y.shape[1]))
        stride, padding, dilation = (_pair(side) for side in (found.stride, found.padding, found.dilation))
        return add_conv(y, x, batch, name, stride=stride, padding=padding, dilation=dilation)

    def either(layer: nn.Module, inputs: tuple[Any, ...], y: Any) -> Any:
        return conv(layer, inputs, y) if isinstance(layer, nn.Conv2d) else linear(layer, inputs, y)

    return either


def _pair(sides: Any) -> tuple[int, int]:
    """Convolutions with padding by words are none of Stable Diffusion's."""
    return int(sides[0]), int(sides[1])
