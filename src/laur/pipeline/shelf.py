"""Adapters by name and by content. Thousands may be known: those not used for long cost their name alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from laur.core.errors import NotFoundError

if TYPE_CHECKING:
    from laur.optimize import BaseAdapter
    from laur.optimize.safetensors_file import Written
    from laur.utils.budget import Budget

_HEADER = 2048
"""Bytes that an open file's header takes, as Python objects, for each layer; estimated."""


@dataclass(frozen=True, slots=True)
class _Meant:
    """What a name was found to mean."""

    source: object
    """What is registered under it."""
    sha256: str
    file: Written | None
    """None for what is no file."""


class Shelf:
    """Adapters that were asked for. Files are closed when the budget is spent and opened again by name."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._names: dict[str, _Meant] = {}
        self.adapters: dict[str, BaseAdapter] = {}
        """By content, the first of each."""
        self._by_name: dict[str, BaseAdapter] = {}
        self._where: dict[str, str] = {}

    def named(self, name: str) -> BaseAdapter:
        """The adapter of that name or file, found anew where another has been registered or written there since."""
        from laur.optimize import ADAPTERS

        known = self._names.get(name)
        if known is not None and known.source is ADAPTERS.source(name) and not (known.file and known.file.anew):
            kept = self._by_name.get(name)
            if kept is not None and self._is_readable(kept):
                self._stand_for(known.sha256, kept)
                self._budget.touch(("adapter", known.sha256))
                return kept
        from laur.optimize.catalogue import find
        from laur.optimize.learned import LearnedWord
        from laur.optimize.lora_file import LoraFile

        adapter = find(name)
        sha256 = adapter.sha256
        # of the file that was looked into, which need not be the one that is kept: two may hold the same
        file = adapter.written if isinstance(adapter, LoraFile | LearnedWord) else None
        self._names[name] = _Meant(ADAPTERS.source(name), sha256, file)
        self._stand_for(sha256, adapter)
        self._by_name[name] = adapter
        self._charge(adapter, sha256, name)
        return adapter

    def by_content(self, sha256: str) -> BaseAdapter:
        """An adapter that was asked for by name before. Raises NotFoundError for any other."""
        adapter = self.adapters.get(sha256)
        if adapter is None and sha256 in self._where:
            adapter = self.named(self._where[sha256])
            adapter = adapter if adapter.sha256 == sha256 else None
        if adapter is None:
            raise NotFoundError(f"no adapter with hash {sha256[:10]} is loaded; name it in a recipe first")
        return adapter

    def _stand_for(self, sha256: str, adapter: BaseAdapter) -> None:
        """By content the first stays while it can be read: what is called otherwise may recommend otherwise."""
        first = self.adapters.get(sha256)
        if first is None or not self._is_readable(first):
            self.adapters[sha256] = adapter

    @staticmethod
    def _is_readable(adapter: BaseAdapter) -> bool:
        """Whether it is still what it was: a word is read when it is said."""
        from laur.optimize.learned import LearnedWord
        from laur.optimize.lora_file import LoraFile

        gone = isinstance(adapter, LearnedWord) and not adapter.is_there
        return not gone and not (isinstance(adapter, LoraFile) and adapter.written.anew)

    def _charge(self, adapter: BaseAdapter, sha256: str, name: str) -> None:
        from laur.optimize.lora_file import LoraFile

        if type(adapter) is LoraFile:  # others may hold what cannot be found again
            self._where[sha256] = name
            self._budget.hold(
                ("adapter", sha256), _HEADER * sum(adapter.info.layers.values()), lambda: self._close(sha256)
            )

    def _close(self, sha256: str) -> None:
        self.adapters.pop(sha256, None)
        for name in [name for name in list(self._by_name) if self._names[name].sha256 == sha256]:
            self._by_name.pop(name, None)
