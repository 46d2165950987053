"""Nested state as tensors and JSON, and back, so that no pickle is ever written or read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

TENSOR = "$tensor"
"""Key of what stands in the JSON for a tensor: its name among the tensors."""


def pack(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Tensors by their path in `tree`, and the rest as JSON that points at them.

    Takes dictionaries with text keys, lists, tuples (which come back as lists), tensors, numbers, texts, True, None.
    Raises TypeError at anything else.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _packed(tree, "", tensors)


def unpack(tensors: Mapping[str, Tensor], rest: Any) -> Any:
    """The tree that `pack` took."""
    if isinstance(rest, Mapping):
        if TENSOR in rest:
            return tensors[rest[TENSOR]]
        return {key: unpack(tensors, value) for key, value in rest.items()}
    if isinstance(rest, list):
        return [unpack(tensors, value) for value in rest]
    return rest


def _packed(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        # a copy of its own: a safetensors file holds no views and no shared memory
        tensors[path] = tree.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        return {TENSOR: path}
    if isinstance(tree, Mapping):
        strange = [key for key in tree if not isinstance(key, str) or key == TENSOR]
        if strange:
            raise TypeError(f"state {path or 'root'} has the key {strange[0]!r}; keys are texts")
        return {key: _packed(value, f"{path}/{key}" if path else key, tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_packed(value, f"{path}/{i}" if path else str(i), tensors) for i, value in enumerate(tree)]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"state {path or 'root'} is a {type(tree).__name__}, which cannot be saved")
