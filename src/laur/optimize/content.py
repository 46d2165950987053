"""The content of an adapter that is code: what its class does and what its instance holds, as one hash."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import PurePath
from types import CodeType
from typing import Any, cast

from laur.core.errors import AdapterError


def content_sha256(thing: object, *, base: type, leave_out: str) -> str:
    """Of the code of its class and those between it and `base`, and of its attributes but `leave_out`.

    What is filled in later does not count, so that the hash stays: cached properties, and private attributes that are
    None or hold objects. Raises AdapterError for a public attribute whose content cannot be told.
    """
    kind = type(thing)
    digest = hashlib.sha256(kind.__qualname__.encode())
    for layer in kind.__mro__[: kind.__mro__.index(base)]:
        digest.update(_code(layer))
    for name, value in sorted(vars(thing).items()):
        if name == leave_out or isinstance(getattr(kind, name, None), cached_property):
            continue
        try:
            content = b"".join(_content(value, f"{kind.__name__}.{name}"))
        except AdapterError:
            if not name.startswith("_"):
                raise
            continue
        if value is not None or not name.startswith("_"):
            digest.update(name.encode() + b"=" + content + b"\n")
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _code(kind: type) -> bytes:
    """Its source; where there is none, as for a class typed into a notebook, what its functions were compiled to."""
    try:
        return inspect.getsource(kind).encode()
    except (OSError, TypeError):
        functions = (getattr(value, "fget", value) for _, value in sorted(vars(kind).items()))
        codes = [function.__code__ for function in functions if hasattr(function, "__code__")]
        return repr([part for code in codes for part in _compiled(code)]).encode()


def _compiled(code: CodeType) -> Iterator[object]:
    yield code.co_code
    yield code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _compiled(constant)
        else:
            yield sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant


def _content(value: Any, name: str) -> Iterator[bytes]:
    if value is None or isinstance(value, str | int | float | bytes | PurePath):
        yield repr(value).encode()
    elif isinstance(value, Mapping):
        yield from _content(sorted(cast("Mapping[Any, Any]", value).items(), key=repr), name)
    elif isinstance(value, list | tuple):
        yield b"["
        for item in cast("list[Any]", value):
            yield from _content(item, name)
            yield b","
        yield b"]"
    elif hasattr(value, "detach"):  # a tensor; by its bytes, since numpy has no bfloat16
        import torch

        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield f"{value.dtype}{tuple(value.shape)}".encode() + flat.numpy().tobytes()
    elif hasattr(value, "tobytes"):
        yield f"{value.dtype}{value.shape}".encode() + value.tobytes()
    else:
        raise AdapterError(
            f"{name} is a {type(value).__name__}, whose content cannot be told; give the adapter a sha256 of its own"
        )
