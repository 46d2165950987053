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
    "red apple, fluent 3d",
    "castle, fluent gradient",
    "birthday cake, plump",
    "mushroom, noto",
    "blue rocket, game silhouette",
    "green tree, emojione",
]
COLUMNS: list[tuple[str, dict[str, Any]]] = [
    ("1 step", {"steps": 1}),
    ("2 steps", {"steps": 2}),
    ("4 steps", {"steps": 4}),
    ("8 steps", {"steps": 8}),
    ("teacher, 30 steps", {"sampler": "ddim", "steps": 30, "guidance": 4.0}),
]


def main(out: Path, checkpoint: str = "mini", seed: int = 7) -> None:
    """Draw all thirty pictures in one continuous batch."""
    engine = Engine(checkpoint)
    recipes = [Recipe(prompt=text, seed=seed, **fields) for text in PROMPTS for _, fields in COLUMNS]
    images = engine.run(recipes)
    rows = [images[start : start + len(COLUMNS)] for start in range(0, len(images), len(COLUMNS))]
    sheet = contact_sheet(
        rows,
        row_labels=PROMPTS,
        column_labels=[label for label, _ in COLUMNS],
        style=SheetStyle(cell=(176, 176)),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/contact_sheet.png"))
