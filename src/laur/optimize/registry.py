"""A registry of adapters by name, filled by `register` and by the entry points of installed packages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from laur.core.errors import AdapterError, NotFoundError
from laur.optimize.base import BaseAdapter

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Source = BaseAdapter | type[BaseAdapter] | Callable[[], BaseAdapter]
"""An instance, or what makes one without arguments."""
S = TypeVar("S", bound=Source)


class Registry:
    """Adapters by name. Installed packages are asked, and imported, only when a name is looked up."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._sources: dict[str, Source] = {}

    @overload
    def register(self, name: str) -> Callable[[S], S]: ...
    @overload
    def register(self, name: str, source: S) -> S: ...
    def register(self, name: str, source: Source | None = None) -> Any:
        """Register a class, a factory or an instance: `@register("name")`, or `register("name", source)`.

        A taken name is refused, but a class may be defined anew under its own name, as notebooks do.
        """
        if source is None:

            def decorate(decorated: S) -> S:
                return self.register(name, decorated)

            return decorate
        if not re.fullmatch(r"[^\s:/\\]+", name):
            raise AdapterError(f"adapter name {name!r} must be one word without colon or slash, such as 'my-adapter'")
        taken = self._sources.get(name)
        if taken is not None and _place(taken) != _place(source):
            raise AdapterError(
                f"an adapter named {name!r} is registered already, by {_place(taken)}; choose another name"
            )
        self._sources[name] = source
        return source

    def names(self) -> list[str]:
        """All names, sorted; nothing is imported for it."""
        return sorted({*self._sources, *(entry.name for entry in self._entry_points())})

    def __contains__(self, name: object) -> bool:
        return name in self._sources or any(entry.name == name for entry in self._entry_points())

    def get(self, name: str) -> BaseAdapter:
        """The adapter of that name: a new instance, or the one registered. NotFoundError lists the known ones."""
        source = self._sources.get(name) or self._installed(name)
        if source is None:
            raise NotFoundError(f"no adapter is registered as {name!r}{hint(name, self.names())}")
        return _instance(name, source)

    def source(self, name: str) -> Source | None:
        """What was registered under that name here, if anything; packages are not asked."""
        return self._sources.get(name)

    def _entry_points(self) -> Iterable[EntryPoint]:
        import importlib.metadata

        return importlib.metadata.entry_points(group=self._group)

    def _installed(self, name: str) -> Source | None:
        found = [entry for entry in self._entry_points() if entry.name == name]
        if not found:
            return None
        values = sorted({entry.value for entry in found})
        if len(values) > 1:
            raise AdapterError(f"adapter {name!r} is provided by {' and by '.join(values)}; uninstall one of them")
        try:
            loaded = found[0].load()
        except Exception as error:
            raise AdapterError(f"adapter {name!r} ({values[0]}) cannot be imported: {_line(error)}") from error
        # an entry point may name a module whose import registers the adapter
        return self._sources.get(name) if isinstance(loaded, ModuleType) else loaded


def hint(name: str, known: Iterable[str]) -> str:
    """How a lookup error goes on: the nearest known name, or all of them."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(known)}" if known else "; none are"


def _instance(name: str, source: Source) -> BaseAdapter:
    try:
        adapter = source if isinstance(source, BaseAdapter) else source()
    except Exception as error:
        raise AdapterError(f"adapter {name!r} ({_place(source)}) cannot be made: {_line(error)}") from error
    if not isinstance(adapter, BaseAdapter):  # pyright: ignore[reportUnnecessaryIsInstance] - others' code
        raise AdapterError(f"adapter {name!r} ({_place(source)}) is no BaseAdapter but {type(adapter).__name__}")
    adapter.name = name
    return adapter


def _place(source: Source) -> str:
    named = type(source) if isinstance(source, BaseAdapter) else source
    module, name = getattr(named, "__module__", "?"), getattr(named, "__qualname__", repr(named))
    return f"{module}.{name}"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
