"""What the network believed at each step: predicted pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from laur.utils.sheet import Cell, SheetStyle, contact_sheet

LEAST = 128
"""Pixels that small previews are enlarged to, so that the words under them fit."""


def step_strip(
    frames: Sequence[np.ndarray],
    *,
    labels: Sequence[str] = (),
    final: Cell = None,
    title: str = "",
    columns: int = 8,
) -> Image.Image:
    """One labelled picture of the predicted x0 of each step, in reading order, `columns` to a row.

    `frames` are (h, w, 3) uint8, as small as previews are; labels say "step 1 of 4" and so on unless given. `final`
    is the finished picture, set last. Raises ValueError without frames.
    """
    if not frames:
        raise ValueError("a strip needs at least one step")
    words = list(labels) or [f"step {index + 1} of {len(frames)}" for index in range(len(frames))]
    cells: list[Cell] = list(frames)
    if final is not None:
        cells.append(final)
        words.append("finished")
    height, width = frames[0].shape[:2]
    scale = max(1, -(-LEAST // max(height, width)))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    captions = [words[start : start + columns] for start in range(0, len(cells), columns)]
    return contact_sheet(
        rows, captions=captions, title=title, style=SheetStyle(cell=(width * scale, height * scale), font_size=13)
    )
