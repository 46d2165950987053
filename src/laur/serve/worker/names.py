"""What recipes of strangers may name: things that have a name, never a path, and nothing that would be fetched."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from laur.core.errors import LaurError, NotFoundError
from laur.core.recipe import DEFAULT_CHECKPOINT, Recipe

LOG = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0
"""Seconds for which the user's folders are believed not to have changed."""


class Names:
    """Checkpoints and adapters by name, as they are on this machine."""

    def __init__(self, own: str = DEFAULT_CHECKPOINT, serves: Collection[str] | None = None) -> None:
        """`own` draws recipes without a checkpoint; `serves` is what else they may name (None: anything known)."""
        self.own = own
        self._serves = None if serves is None else tuple(serves)
        self._at = -_LOOK_AGAIN
        self._models: tuple[str, ...] = ()
        self._adapters: tuple[str, ...] = ()
        self._styles: tuple[str, ...] = ()

    def models(self) -> tuple[str, ...]:
        """Checkpoints, the own one first."""
        self._look()
        return self._models

    def adapters(self) -> tuple[str, ...]:
        """Adapters and styles."""
        self._look()
        return self._adapters

    def check(self, recipe: Recipe) -> None:
        """Raise NotFoundError where a field of the recipe names what has no name here.

        What its prompt names in tags is found when it is resolved, see `NamedLibrary`.
        """
        for name in (recipe.checkpoint, recipe.refiner):
            if name is not None:
                self.check_model(name)
        for name in [ref.name for ref in recipe.adapters or ()] + ([recipe.style] if recipe.style else []):
            self.check_adapter(name)

    def check_model(self, name: str) -> None:
        """Raise NotFoundError for what is no checkpoint's name, without saying whether a file is there."""
        if name not in self.models():
            raise NotFoundError(f"no model is called {name[:80]!r} here; there are {_list(self.models())}")

    def check_adapter(self, name: str) -> None:
        """Raise NotFoundError for what is no adapter's or style's name, without saying whether a file is there."""
        if name not in self.adapters():
            raise NotFoundError(f"no adapter is called {name[:80]!r} here; there are {_list(self.adapters())}")

    def _look(self) -> None:
        if time.monotonic() - self._at < _LOOK_AGAIN:
            return
        from laur.optimize import catalogue
        from laur.pipeline.loading import names
        from laur.style import cards

        others = [entry.name for entry in names.known()] if self._serves is None else list(self._serves)
        self._models = tuple(dict.fromkeys([self.own, *others]))
        try:
            self._styles = tuple(cards.known())
        except LaurError as error:  # a broken card in the user's folder: the others are served as they were
            LOG.warning("%s", error)
        self._adapters = tuple(dict.fromkeys([*(entry.name for entry in catalogue.known()), *self._styles]))
        self._at = time.monotonic()


def _list(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"
