"""The README's contact sheet: six prompts at 1, 2, 4 and 8 steps, beside the 30-step teacher.

python scripts/contact_sheet.py docs/contact_sheet.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.utils.sheet import SheetStyle, contact_sheet

PROMPTS = [
    ("red heart, fluent 3d", 7),
    ("smiling face, noto", 4),
    ("house, twemoji", 6),
    ("wine bottle, plump", 1),
    ("birthday cake, fluent gradient", 5),
    ("castle, fluent gradient", 7),
]
"""What v0 draws recognisably, with seeds chosen for it; a random seed is recognisable less often."""
COLUMNS: list[tuple[str, dict[str, Any]]] = [
    ("1 step", {"steps": 1}),
    ("2 steps", {"steps": 2}),
    ("4 steps", {"steps": 4}),
    ("8 steps", {"steps": 8}),
    ("teacher, 30 steps", {"sampler": "ddim", "steps": 30, "guidance": 4.0}),
]


def main(out: Path, checkpoint: str = "mini") -> None:
    """Draw all thirty pictures in one continuous batch."""
    engine = Engine(checkpoint)
    recipes = [Recipe(prompt=text, seed=seed, **fields) for text, seed in PROMPTS for _, fields in COLUMNS]
    images = engine.run(recipes)
    rows = [images[start : start + len(COLUMNS)] for start in range(0, len(images), len(COLUMNS))]
    sheet = contact_sheet(
        rows,
        row_labels=[f"{text} (seed {seed})" for text, seed in PROMPTS],
        column_labels=[label for label, _ in COLUMNS],
        style=SheetStyle(cell=(176, 176)),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/contact_sheet.png"))
