"""What a finished picture says of the programs, weights and arithmetic that made it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from laur.core.errors import LaurError

if TYPE_CHECKING:
    from laur.core.checkpoint import Checkpoint
    from laur.core.plan import Plan
    from laur.core.recipe import Recipe
    from laur.optimize import BaseAdapter
    from laur.pipeline.device import Placement
    from laur.render.embedded import Provenance


def provenance(
    checkpoint: Checkpoint, place: Placement, plan: Plan, recipe: Recipe, find: Callable[[str], BaseAdapter]
) -> Provenance:
    """Of a plan's picture; `find` gives an adapter by content or raises LaurError."""
    import torch

    import laur
    from laur.render.embedded import AdapterHash, Provenance

    return Provenance(
        laur=laur.__version__,
        torch=torch.__version__,
        device=str(place.device),
        dtype=place.dtype_name,
        backend="pytorch",
        checkpoint=recipe.checkpoint or checkpoint.name,
        checkpoint_sha256=checkpoint.sha256,
        adapters=tuple(
            AdapterHash(name=ref.name, sha256=ref.sha256 or "", **_of_file(ref.sha256, find))
            for ref in recipe.adapters or ()
        ),
        plan_key=plan.key,
        threads=torch.get_num_threads() if place.device.type == "cpu" else None,
    )


def _of_file(sha256: str | None, find: Callable[[str], BaseAdapter]) -> dict[str, str | None]:
    """What only files of some kinds have."""
    from laur.optimize.learned import LearnedWord

    try:
        adapter = find(sha256 or "")
    except LaurError:  # the file has gone since
        return {}
    word = adapter.word if isinstance(adapter, LearnedWord) else None
    return {"autov3": getattr(adapter, "autov3", None), "word": word}
