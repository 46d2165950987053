"""Pictures in the terminal."""

from __future__ import annotations

import io
import os
import sys
from shutil import get_terminal_size
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType

    from laur.cli.display import Preview
    from laur.cli.draw import Saved
    from laur.utils.terminal_image import Protocol

MOST_SHOWN = 16
"""Of many pictures only the first are shown, as one sheet."""


def show_inline(saved: list[Saved]) -> None:
    """Show finished pictures on standard output, as well as this terminal can; several as a sheet."""
    from laur.utils.sheet import grid
    from laur.utils.terminal_image import detect, show

    protocol = detect(os.environ, sys.stdout.isatty())
    if protocol is None or not saved:
        return
    images = [entry.picture.image for entry in saved[:MOST_SHOWN]]
    show(images[0] if len(images) == 1 else grid(images), sys.stdout, protocol)


def block_preview() -> Preview | None:
    """What shows previews side by side on standard error in half blocks; None where no colours are shown."""
    from laur.utils.terminal_image import Protocol, detect

    best = detect(os.environ, sys.stderr.isatty())
    if best is None:
        return None
    plain = Protocol.BLOCKS_256 if best is Protocol.BLOCKS_256 else Protocol.BLOCKS
    return lambda pictures: _blocks(pictures, plain)


def _blocks(pictures: list[np.ndarray], protocol: Protocol) -> RenderableType:
    import numpy as np
    from PIL import Image
    from rich.columns import Columns
    from rich.text import Text

    from laur.utils.terminal_image import BLOCK_COLUMNS, show

    shown: list[Text] = []
    for pixels in pictures[: max(1, get_terminal_size().columns // (BLOCK_COLUMNS + 1))]:
        text = io.StringIO()
        show(Image.fromarray(np.ascontiguousarray(pixels)), text, protocol)
        shown.append(Text.from_ansi(text.getvalue()))
    return Columns(shown)
