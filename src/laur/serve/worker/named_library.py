"""A Library that finds things by their names only, whatever way a name comes to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laur.input.store import PictureStore
from laur.pipeline.library import Library

if TYPE_CHECKING:
    from laur.core.checkpoint import Checkpoint
    from laur.optimize import BaseAdapter
    from laur.pipeline.device import Placement
    from laur.serve.worker.names import Names


class NamedLibrary(Library):
    """Recipes name adapters in their fields, and in the tags and wildcards of their prompts: here all of it passes."""

    def __init__(self, names: Names, placement: Placement) -> None:
        super().__init__(placement, inputs=PictureStore())  # not this machine's own: jobs bring theirs along
        self._allowed = names

    def checkpoint(self, name: str, *, prediction: str | None = None, variant: str | None = None) -> Checkpoint:
        """See `Library`. Raises NotFoundError for a path or a hub id that is not this worker's own model."""
        self._allowed.check_model(name)
        return super().checkpoint(name, prediction=prediction, variant=variant)

    def adapter(self, name: str, family: str = "mini") -> BaseAdapter:
        """See `Library`. Raises NotFoundError for a path."""
        self._allowed.check_adapter(name)
        return super().adapter(name, family)
