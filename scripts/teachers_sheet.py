"""What every style's teacher makes of the same eight icons, as a sheet.

python scripts/teachers_sheet.py --pack mini-train docs/styles.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from laur.style.teachers import TEACHERS
from laur.train.data.sources.pack import Pack
from laur.train.evaluate.prompts import concept
from laur.utils.sheet import SheetStyle, contact_sheet

THINGS = ("red apple", "castle", "cat face", "rocket", "sailboat", "house", "owl", "tulip")
STYLE = "fluent 3d"
SIDE = 256


def main() -> None:
    """Paint them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="the sheet's file")
    parser.add_argument("--pack", type=Path, required=True, help="where the icons are")
    parser.add_argument("--side", type=int, default=88, help="pixels of each picture")
    wish = parser.parse_args()
    pack = Pack(wish.pack, styles=(STYLE,))
    found = {concept(record.name): record for record in pack.records(0, len(pack))}
    icons: list[np.ndarray] = []
    for thing in THINGS:
        image = found[thing].draw(SIDE).image.convert("RGB")
        icons.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    rows = [[Image.fromarray(teacher(icon, 0)) for icon in icons] for teacher in TEACHERS.values()]
    style = SheetStyle(cell=(wish.side, wish.side), gap=4)
    contact_sheet(rows, row_labels=list(TEACHERS), style=style).save(wish.out, quality=82)


if __name__ == "__main__":
    main()
