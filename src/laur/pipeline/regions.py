"""Regions: adapters that act in a part of the picture.

Each region is a row of its own with its own adapters; the rows' predictions are joined by masks, which add up to one
at every place (MultiDiffusion, arXiv 2302.08113, section 4.2, with one latent). Rows see the whole latent, so that what
lies on both sides of an edge still fits together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from laur.core.errors import AdapterError
from laur.core.recipe import box_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from laur.core.denoiser import Row
    from laur.core.plan import AdapterUse, Plan, RowSpec, Stage
    from laur.pipeline.library import Library

FEATHER = 1 / 16
"""Of the shorter side: how wide two regions pass into each other."""


def predict(library: Library, stage: Stage, specs: Sequence[RowSpec], rows: list[Row]) -> Tensor:
    """One prediction per row, (N, C, h, w); rows with other merged adapters go through their own denoiser."""
    own = [library.rows.pinned(stage.checkpoint, (*stage.adapters, *spec.adapters)) for spec in specs]
    if len(set(own)) == 1:
        return library.denoiser(stage.checkpoint, own[0]).predict(rows)
    import torch

    found: dict[int, Tensor] = {}
    with library.many(len(set(own))):
        for uses in dict.fromkeys(own):
            places = [place for place, mine in enumerate(own) if mine == uses]
            denoiser = library.denoiser(stage.checkpoint, uses)
            found.update(zip(places, denoiser.predict([rows[place] for place in places]), strict=True))
    return torch.stack([found[place] for place in range(len(rows))])


def shares(regions: Sequence[str | None], plan: Plan, library: Library) -> Tensor | None:
    """(R, 1, h, w) on the library's device: how much each row counts where; None where each counts everywhere.

    Later regions lie over earlier ones; what none covers is left to None. Rows of one region share its mask.
    """
    if not regions:
        return None
    import numpy as np
    import torch

    _, height, width = plan.latent_shape
    rest = np.ones((height, width), np.float32)
    masks: dict[str | None, NDArray[np.float32]] = {}
    for region in reversed(list(dict.fromkeys(region for region in regions if region is not None))):
        covered = _soft(_mask(region, plan, library))
        masks[region] = rest * covered
        rest = rest * (1 - covered)
    masks[None] = rest
    if None not in regions and float(rest.max()) > 0:  # everything is covered but for rounding and feathered rims
        total = sum(masks[region] for region in masks if region is not None) + 1e-6
        masks = {region: mask / total for region, mask in masks.items()}
    stacked = torch.from_numpy(np.stack([masks[region] for region in regions])[:, None].astype(np.float32))
    return stacked.to(library.placement.device)


def check_local(uses: Sequence[AdapterUse], library: Library) -> None:
    """Raise AdapterError for adapters that cannot be kept to a part of the picture."""
    from laur.optimize.hooks import overrides

    for use in uses:
        adapter = library.by_content(use.sha256)
        hooks = [hook for hook in ("rows", "tokens", "residuals", "on_x0") if overrides(adapter, hook)]
        if hooks:
            raise AdapterError(
                f"adapter {adapter.name} changes the whole picture ({', '.join(hooks)}) and cannot be kept to a "
                "region; leave its region out"
            )


def _mask(region: str, plan: Plan, library: Library) -> NDArray[np.float32]:
    """(h, w) 0 … 1: how much of each latent cell lies in it."""
    import numpy as np

    _, height, width = plan.latent_shape
    box = box_of(region)
    if box is not None:
        x0, y0, x1, y1 = box
        across = _overlap(width, x0, x1)
        return (_overlap(height, y0, y1)[:, None] * across[None]).astype(np.float32)
    from PIL import Image

    from laur.input.fit import fit

    mask = library.inputs.get(region, "mask")
    grey = Image.fromarray(fit(mask, mask.size, plan.width, plan.height))
    small = grey.convert("L").resize((width, height), Image.Resampling.BOX)
    return (np.asarray(small) / 255).astype(np.float32)


def _overlap(cells: int, begin: float, end: float) -> NDArray[np.float32]:
    """How much of each of `cells` lies between two parts of the side."""
    import numpy as np

    edges = np.arange(cells + 1) / cells
    inside = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0, None) * cells
    return inside.astype(np.float32)


def _soft(mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """With rims that pass into what lies beside; the picture's own border stays hard."""
    import numpy as np

    radius = round(min(mask.shape) * FEATHER / 2)
    if radius < 1:
        return mask
    kernel = np.ones(2 * radius + 1) / (2 * radius + 1)
    padded = np.pad(mask, radius, mode="edge")
    for _ in range(2):
        padded = np.stack([np.convolve(row, kernel, "valid") for row in padded]).T
    return padded.astype(np.float32)
