"""Small pictures of what is being drawn, and the files of what is finished."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

from laur.core.recipe import Recipe
from laur.render import registry
from laur.serve.job import Job, Result

if TYPE_CHECKING:
    from laur.pipeline.events import Progress

MEDIA_TYPE = "image/jpeg"


def encode(progress: Progress, side: int) -> bytes | None:
    """A JPEG of at most `side` pixels; None where the engine cannot preview."""
    from PIL import Image

    pixels = progress.preview()
    if pixels is None:
        return None
    image = Image.fromarray(pixels)
    larger = side / max(image.size)
    size = (max(1, round(image.width * larger)), max(1, round(image.height * larger)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def describe(
    key: str,
    content: bytes,
    job: Job,
    recipe: Recipe,
    warnings: tuple[str, ...],
    *,
    cached: bool = False,
    blurred: str | None = None,
) -> Result:
    """What a queue keeps of a finished file."""
    assert recipe.width and recipe.height
    return Result(
        key=key,
        media_type=registry.get(job.format).media_type,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        width=recipe.width,
        height=recipe.height,
        recipe=recipe,
        warnings=warnings,
        cached=cached,
        blurred=blurred,
    )
