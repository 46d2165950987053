"""Which checkpoints and adapters lie in a worker's memory, by the names that recipes use: what its card tells."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar

from laur.pipeline import foresight
from laur.serve.job import adapter_names, pool_of, short_hash

if TYPE_CHECKING:
    from laur.core.plan import Plan
    from laur.core.recipe import Recipe
    from laur.pipeline.library import Library

T = TypeVar("T")
KNOWN = 512
"""Names whose whereabouts are remembered."""


class Residents:
    """Learns in the Engine's thread what names stand for; asked from the event loop."""

    def __init__(self) -> None:
        self._checkpoints: OrderedDict[str, str] = OrderedDict()
        self._adapters: OrderedDict[str, frozenset[tuple[str, str]]] = OrderedDict()
        self._lock = threading.Lock()

    def learn(self, recipe: Recipe, filled: Recipe, plan: Plan) -> None:
        """From a recipe as it was asked for, and what became of it."""
        if not plan.stages:
            return
        checkpoint = plan.stages[0].checkpoint
        content = {ref.name: ref.sha256 for ref in filled.adapters or () if ref.sha256}
        named = [ref.name for ref in recipe.adapters or ()]
        others = frozenset((checkpoint, sha256) for name, sha256 in content.items() if name not in named)
        with self._lock:
            _remember(self._checkpoints, pool_of(recipe.checkpoint), checkpoint)
            for name in adapter_names(recipe):
                own = frozenset({(checkpoint, content[name])}) if name in content else others
                _remember(self._adapters, short_hash(name), own)

    def checkpoints(self, library: Library) -> frozenset[str]:
        """`pool_of` those whose network is in memory."""
        with self._lock:
            return frozenset(pool for pool, key in self._checkpoints.items() if library.holds(key))

    def adapters(self, library: Library) -> frozenset[str]:
        """`short_hash` of those that could be drawn with at once."""
        with self._lock:
            known = list(self._adapters.items())
        return frozenset(name for name, keys in known if all(foresight.resident(library, *key) for key in keys))


def _remember(where: OrderedDict[str, T], name: str, what: T) -> None:
    where[name] = what
    where.move_to_end(name)
    while len(where) > KNOWN:
        where.popitem(last=False)
