"""Frozen dataclasses from tables of TOML and back: every key known, every value of its type, one line where not."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import json
import math
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from laur.core.errors import TrainingError

T = TypeVar("T")
Table = Mapping[str, Any]

NAMES: Mapping[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}


def build(cls: type[T], values: Table, kinds: Mapping[str, Any] | None = None, path: str = "") -> T:
    """An instance of the dataclass `cls` from a table; fields that are not named keep their defaults.

    Args:
        cls: a dataclass of bool, int, float, str, Path, Literal, tuple, Mapping, `X | None` and further dataclasses.
        values: the table.
        kinds: by field, a type to read in place of the annotated one.
        path: dotted name of the table, for messages.

    Raises:
        TrainingError: an unknown key (the nearest known one is named), a wrong type, a field that has no default and
            is missing, or what the dataclass itself refuses.
    """
    hints = typing.get_type_hints(cls) | dict(kinds or {})
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # pyright: ignore[reportArgumentType]
    for key in values:
        if key not in fields:
            raise TrainingError(_unknown(f"{path}{key}", key, [f"{path}{name}" for name in fields]))
    missing = [name for name, field in fields.items() if name not in values and _required(field)]
    if missing:
        raise TrainingError(f"{path}{missing[0]} is not set; give it in the configuration or by --set")
    try:
        return cls(**{key: convert(hints[key], value, f"{path}{key}") for key, value in values.items()})
    except ValueError as fault:  # from a __post_init__
        raise TrainingError(f"{path}{fault}" if path else str(fault)) from None


def convert(kind: Any, value: Any, path: str) -> Any:
    """`value` of TOML as the type `kind`, or TrainingError naming `path`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, _table(value, path), path=f"{path}.")
    if origin in {Union, types.UnionType}:
        return convert(next(part for part in arguments if part is not type(None)), value, path)
    if origin is Literal:
        if value not in arguments:
            raise TrainingError(f"{path} is {value!r}; choose one of {', '.join(map(str, arguments))}")
        return value
    if origin in {tuple, list}:
        return _sequence(arguments, value, path)
    if origin is not None and issubclass(origin, Mapping):
        return {key: convert(arguments[1], part, f"{path}.{key}") for key, part in _table(value, path).items()}
    return _scalar(kind, value, path)


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isnan(value):
            raise TrainingError(f"{path} is nan; it takes a number")
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():  # 1e5
        return int(value)
    if type(value) is kind or kind is Any:
        return value
    raise TrainingError(f"{path} is {value!r}; it takes {NAMES.get(kind, getattr(kind, '__name__', kind))}")


def _sequence(arguments: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TrainingError(f"{path} is {value!r}; it takes a list, as in [1, 2]")
    repeated = len(arguments) == 1 or arguments[-1] is Ellipsis
    if not repeated and len(value) != len(arguments):
        raise TrainingError(f"{path} has {len(value)} values; it takes {len(arguments)}")
    kinds = [arguments[0]] * len(value) if repeated else arguments
    return tuple(convert(kind, part, f"{path}[{i}]") for i, (kind, part) in enumerate(zip(kinds, value, strict=True)))


def _table(value: Any, path: str) -> Table:
    if not isinstance(value, Mapping):
        raise TrainingError(f"{path} is {value!r}; it is a table of settings, as in [{path}]")
    return value


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _unknown(full: str, key: str, known: list[str]) -> str:
    last = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, last, n=1, cutoff=0.5)
    if near:
        return f"there is no setting {full}; the nearest is {last[near[0]]}"
    return f"there is no setting {full}; there are {', '.join(known)}"


def merge(base: Table, over: Table) -> dict[str, Any]:
    """`over` on `base`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def assignment(text: str) -> dict[str, Any]:
    """The table that `--set table.key=value` says; a value that is no TOML is taken as a text."""
    name, sign, value = text.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not sign or not all(keys):
        raise TrainingError(f"--set {text!r} is not table.key=value, as in --set optimiser.lr=1e-4")
    table: Any = _value(value.strip())
    for key in reversed(keys):
        table = {key: table}
    return table


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def flatten(values: Table, path: str = "") -> dict[str, Any]:
    """By dotted name, every value that is not itself a table."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return flat


def to_table(instance: Any) -> dict[str, Any]:
    """The dataclass as TOML holds it: what is None is left out, as TOML has no word for it."""
    table: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if value is not None:
            table[field.name] = to_table(value) if dataclasses.is_dataclass(value) else _plain(value)
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, Path) else value


def to_toml(instance: Any) -> str:
    """The whole dataclass as TOML, each key under the words of its docstring."""
    return "\n".join(_lines(instance, "")).strip() + "\n"


def _lines(instance: Any, path: str) -> Iterator[str]:
    words = docstrings(type(instance))
    tables: list[tuple[str, Any]] = []
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
            tables.append((field.name, value))
            continue
        yield from textwrap.wrap(words.get(field.name, ""), 110, initial_indent="# ", subsequent_indent="# ")
        yield f"# {field.name} is not set" if value is None else f"{field.name} = {_written(_plain(value))}"
    for name, value in tables:
        yield ""
        yield from textwrap.wrap(words.get(name, ""), 110, initial_indent="# ", subsequent_indent="# ")
        yield f"[{path}{name}]"
        if isinstance(value, Mapping):
            yield from (f"{_written(str(key))} = {_written(_plain(part))}" for key, part in value.items())
        else:
            yield from _lines(value, f"{path}{name}.")


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # JSON's escapes are TOML's too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_written(str(key))} = {_written(part)}' for key, part in value.items())} }}"
    return repr(value)


@functools.cache
def docstrings(cls: type) -> dict[str, str]:
    """The string under each field of a dataclass and its bases, on one line; none where the source is not at hand."""
    inherited = [docstrings(base) for base in reversed(cls.__bases__) if dataclasses.is_dataclass(base)]
    found = {name: words for part in inherited for name, words in part.items()}
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):
        return found
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            found[field.target.id] = " ".join(text.split()) if isinstance(text, str) else ""
    return found
