"""A sheet of a set's pictures with their captions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur.utils.files import atomic_write

if TYPE_CHECKING:
    from laur.train.data.reader import TrainingSet


def sheet_of(data: TrainingSet, path: Path, count: int, *, columns: int = 6) -> None:
    """Write a PNG of pictures that are spread evenly over the set, each with its longest caption.

    Errors: OutputError; CheckpointError where the set keeps no pictures and its model is not at hand to decode.
    """
    from laur.utils.sheet import contact_sheet

    places = np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(np.int64))
    pictures = [_picture(data, int(place)) for place in places]
    words = [max(captions, key=len) for captions in data.captions(places)]
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    captions = [words[i : i + columns] for i in range(0, len(words), columns)]
    sheet = contact_sheet(rows, captions=captions)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    atomic_write(path, buffer.getvalue())


def _picture(data: TrainingSet, place: int) -> Any:
    import torch

    index = np.array([place])
    if data.info.keeps_pixels:
        pixels = (data.pixels(index)[0] + 1) * 127.5
        return pixels.round().byte().permute(1, 2, 0).contiguous().numpy()
    from laur.pipeline.device import choose
    from laur.pipeline.library import Library

    library = Library(choose(None))
    decoder = library.decoder(library.checkpoint(data.info.model).key)
    with torch.inference_mode():
        return decoder.decode(data.latents(index))[0].cpu().numpy()
