"""The scorer that reads captions off pictures in a style, and captions as it knows them.

The scorer that ships for `--best-of` tells icons largely by their colours, which styles change. This one has the same
form; it was trained on from those weights with colours, grounds, contours and surfaces changed at random and on
captions without colours (scripts/train_style_scorer.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from laur.pipeline.scoring.mini import MiniScorer
from laur.pipeline.scoring.mini import shipped as _shipped_scorer
from laur.train.data.captions import SYNONYMS
from laur.train.data.colours import HUES, PAINTS
from laur.train.evaluate.prompts import Prompt


def style_scorer() -> MiniScorer:
    """On the CPU. Errors: CheckpointError."""
    import torch

    return MiniScorer(torch.device("cpu"), _shipped_scorer().with_name("style_scorer.safetensors"))


def pool(file: Path) -> list[Prompt]:
    """Captions to find one among: those of a file of objects with prompt, concept and style, plain, a text once."""
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    texts = {plain(line["prompt"], line["style"]): line["concept"] for line in lines}
    return [Prompt(text=text, concept=concept) for text, concept in texts.items()]


def plain(caption: str, style: str) -> str:
    """A caption without colours and style: "jar, sauce, light blue and white, noto emoji" is "jar, sauce"."""
    words, colours = {style, *SYNONYMS.get(style, ())}, {*PAINTS, *HUES}
    parts = [part for part in caption.split(", ") if part not in words and not set(part.split(" and ")) <= colours]
    first = parts[0] if parts else caption
    for colour in sorted(PAINTS, key=len, reverse=True):
        first = first.removeprefix(f"{colour} ") or first
    return ", ".join(dict.fromkeys([first, *parts[1:]]))
