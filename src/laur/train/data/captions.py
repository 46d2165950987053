"""Captions of an icon from its name, tags, style and colours: short ones and long ones.

What a caption leaves open a model has to average over, so the long ones say colours too; how much that helps was
measured elsewhere (Photoroom PRX, part 2: FID 36.8 with short captions, 18.2 with long).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SYNONYMS = {
    "fluent 3d": ("3d emoji", "glossy 3d icon"),
    "fluent gradient": ("gradient emoji",),
    "fluent flat": ("flat emoji", "flat vector icon"),
    "noto": ("noto emoji",),
    "twemoji": ("twemoji emoji", "simple flat emoji"),
    "emojione": ("cartoon emoji",),
    "fxemoji": ("firefox emoji",),
    "streamline emoji": ("outlined cartoon emoji",),
    "fluent ink": ("black ink icon",),
    "noto line": ("line drawing", "line art"),
    "game silhouette": ("game icon", "silhouette"),
    "3d render": ("3d object render",),
    "clipart": ("clip art",),
    "plump": ("plump icon",),
    "cyber": ("cyber icon",),
    "iconpark duo": ("two tone outline icon",),
    "ultimate outline colour": ("outlined color icon",),
}
"""Other words for a style, so that people need not know its label."""
_SHORTEST, _LONGEST = 3, 17
"""Letters of a tag that is worth saying."""


def captions(
    name: str, tags: Sequence[str], style: str, *, paint: str = "", hues: Sequence[str] = (), key: str = ""
) -> tuple[str, ...]:
    """Five, the same for the same `key`. `paint` is the colour that a picture of one colour was given, `hues` what
    else it shows."""
    draw = random.Random(f"captions {key} {name} {style}")
    name = name.strip().lower()
    thing = name if paint in {"", "black"} else f"{paint} {name}"
    shown = "" if paint else " and ".join(hues)
    words = draw.choice([style, style, *SYNONYMS.get(style, ())])
    others = [t.strip().lower() for t in tags if _SHORTEST <= len(t) <= _LONGEST and t.strip().lower() != name]
    few = ", ".join(draw.sample(others, min(len(others), draw.randint(1, 3))))
    article = "an" if thing[:1] in "aeiou" else "a"
    loose = draw.choice(others) if others and draw.random() < 0.4 else thing
    found = (
        f"{thing}, {style}",
        f"{words} of {article} {thing}",
        f"{loose}, {style}" if loose != thing else thing,
        f"{shown} {name}, {style}" if shown else f"{thing}, {words}",
        ", ".join(part for part in (thing, few, shown, words) if part),
    )
    return tuple(dict.fromkeys(found))
