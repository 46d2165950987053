"""Look inside a module while it runs: which layer first gave NaN or infinity, and which shapes went through.

Only forward hooks are used; they are removed whatever happens, so the module is afterwards as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The first layer whose output is not finite although what went in was."""

    name: str
    """As in `named_modules`; empty for the module itself."""
    kind: str
    """Its class."""
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    nans: int
    """Of the values in its outputs."""
    infinities: int
    values: int
    """In its outputs, altogether."""
    weights: tuple[str, ...] = ()
    """Its own parameters and buffers that are not finite: then the file, not the arithmetic, is to blame."""

    def __str__(self) -> str:
        parts = [f"{count:,} {word}" for count, word in ((self.nans, "NaN"), (self.infinities, "infinite")) if count]
        blame = f", as its {' and '.join(self.weights)} is not finite" if self.weights else ""
        return (
            f"{self.name or 'the module itself'} ({self.kind}, {_shapes(self.inputs)} to {_shapes(self.outputs)}: "
            f"{' and '.join(parts)} of {self.values:,} values{blame})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShapes:
    """One call of one layer."""

    name: str
    kind: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    parameters: int
    """Numbers in the layer and all below it."""

    def __str__(self) -> str:
        name = self.name or "(all)"
        return f"{name}  {self.kind}  {_shapes(self.inputs)} -> {_shapes(self.outputs)}  {self.parameters:,}"


@dataclass(slots=True, kw_only=True)
class ShapeReport:
    """What went through a module, call by call in the order in which calls ended."""

    layers: list[LayerShapes] = field(default_factory=list)
    failed: str | None = None
    """The innermost layer that raised, with the shapes that it was given."""
    error: Exception | None = None

    def __str__(self) -> str:
        lines = [str(layer) for layer in self.layers]
        if self.failed is not None:
            lines.append(f"{self.failed} raised {type(self.error).__name__}: {self.error}")
        return "\n".join(lines)


def first_nonfinite(module: nn.Module, run: Callable[[], object]) -> Report | None:
    """Call `run`, which must run `module`, and name the first layer at fault; None if all stayed finite.

    Layers inside come before the ones that hold them, so that the innermost is named; arithmetic between layers is
    blamed on the layer that does it. Minus infinity alone in an input does not count: masks hold it. If `run` raises
    after a layer was found, the report wins.
    """
    found: list[Report] = []

    def look(name: str, layer: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        if not found and not all(map(_finite, outputs)) and all(map(_usable, inputs)):
            found.append(_report(name, layer, inputs, outputs))

    try:
        with _watched(module, look):
            run()
    except Exception:
        if not found:
            raise
    return found[0] if found else None


def shape_report(module: nn.Module, run: Callable[[], object]) -> ShapeReport:
    """Call `run`, which must run `module`, and tell the shapes of every call inside it.

    An exception is not raised but told, with the innermost layer that it came from.
    """
    report = ShapeReport()
    entered: list[str] = []

    def enter(name: str, layer: nn.Module, inputs: Sequence[Tensor]) -> None:
        entered.append(f"{name or 'the module itself'} ({type(layer).__name__}, given {_shapes(_sizes(inputs))})")

    def leave(name: str, layer: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        entered.pop()
        count = sum(parameter.numel() for parameter in layer.parameters())
        kind = type(layer).__name__
        shapes = LayerShapes(name=name, kind=kind, inputs=_sizes(inputs), outputs=_sizes(outputs), parameters=count)
        report.layers.append(shapes)

    try:
        with _watched(module, leave, enter):
            run()
    except Exception as error:
        if not entered:
            raise
        report.failed, report.error = entered[-1], error
    return report


Leave = Callable[[str, nn.Module, Sequence[Tensor], Sequence[Tensor]], None]
Enter = Callable[[str, nn.Module, Sequence[Tensor]], None]


@contextmanager
def _watched(module: nn.Module, leave: Leave, enter: Enter | None = None) -> Generator[None]:
    """Call `enter` before and `leave` after every layer of `module`, itself included, while the block runs."""
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def watch(name: str, layer: nn.Module) -> None:
        def before(layer: nn.Module, args: Any, kwargs: Any) -> None:
            if enter is not None:
                enter(name, layer, list(_tensors((args, kwargs))))

        def after(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            leave(name, layer, list(_tensors((args, kwargs))), list(_tensors(output)))

        handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(layer.register_forward_hook(after, with_kwargs=True))

    try:
        for name, layer in module.named_modules():
            watch(name, layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, mappings (and so in the outputs of transformers and diffusers)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _usable(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or not bool((torch.isnan(tensor) | torch.isposinf(tensor)).any())


def _report(name: str, layer: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Report:
    real = [tensor for tensor in outputs if tensor.is_floating_point()]
    own = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
    return Report(
        name=name,
        kind=type(layer).__name__,
        inputs=_sizes(inputs),
        outputs=_sizes(outputs),
        nans=sum(int(torch.isnan(tensor).sum()) for tensor in real),
        infinities=sum(int(torch.isinf(tensor).sum()) for tensor in real),
        values=sum(tensor.numel() for tensor in real),
        weights=tuple(key for key, tensor in own if not _usable(tensor)),
    )


def _sizes(tensors: Sequence[Tensor]) -> tuple[Shape, ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _shapes(shapes: Sequence[Shape]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes) or "nothing"
