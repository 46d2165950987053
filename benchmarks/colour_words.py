"""Do few steps keep the colour that a prompt names?

    python benchmarks/colour_words.py [--adapter FILE …] [--eta 0 …] [--seeds 2]

"red heart, fluent 3d", "blue car, twemoji" …: of the pixels that are not background, the share that lies nearer to the
named colour than to any other that captions name. The teacher (30 steps, guidance 4) and an LCM-LoRA at 1, 2, 4 and 8
steps begin from the same noise. Distances between distributions hardly see this: a green heart is as likely a picture
as a red one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from harness import report
from numpy.typing import NDArray

from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline.engine import Engine
from laur.train.data.colours import HUES, PAPER, nearest

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
"""What is asked for, of the colours that captions name."""
THINGS = ("heart, fluent 3d", "apple, noto", "car, twemoji", "flower, fluent flat", "house, noto")
STEPS = (1, 2, 4, 8)
LEAST = 200
"""Pixels below which nothing was drawn."""


def share(pixels: NDArray[np.uint8], colour: str) -> float:
    """Of what is drawn on (H, W, 3), 0..1."""
    drawn = pixels.reshape(-1, 3).astype(np.int32)
    drawn = drawn[drawn.min(1) < PAPER]
    if len(drawn) < LEAST:
        return 0.0
    return float((nearest(drawn) == list(HUES).index(colour)).mean())


def measure(engine: Engine, seeds: int, **fields: Any) -> dict[str, float]:
    """The mean share for each colour, and of all."""
    found: dict[str, float] = {}
    for colour in COLOURS:
        recipes = [Recipe(prompt=f"{colour} {thing}", seed=seed, **fields) for thing in THINGS for seed in range(seeds)]
        shares = [share(np.asarray(picture.pixels), colour) for picture in engine.pictures(recipes)]
        found[colour] = round(float(np.mean(shares)), 3)
    return {**found, "all": round(float(np.mean(list(found.values()))), 3)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--adapter", action="append", default=[], help="LCM-LoRAs (default: mini's own)")
    parser.add_argument("--eta", type=float, action="append", default=[], help="of LCM's sampler, beside its usual 1")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    args = parser.parse_args()
    engine = Engine("mini")
    figures: dict[str, Any] = {"pictures_each": len(COLOURS) * len(THINGS) * args.seeds}
    for adapter in args.adapter or ["lcm-lora-mini"]:
        few = {"guidance": 1.0, "sampler": "lcm", "adapters": (AdapterRef(name=adapter),)}
        for eta in [None, *args.eta]:
            for steps in STEPS[eta is not None :]:  # a single step has no noise to add
                of = f", eta {eta:g}" if eta is not None else ""
                name = f"{Path(adapter).stem}, {steps} step{'s' * (steps > 1)}{of}"
                figures[name] = measure(engine, args.seeds, steps=steps, eta=eta, **few)
                print(name, figures[name], flush=True)
    teacher = {"guidance": 4.0, "sampler": "dpm++2m", "adapters": ()}
    figures["teacher, 30 steps"] = measure(engine, args.seeds, steps=30, **teacher)
    report("colour_words", __doc__.splitlines()[0] if __doc__ else "", figures, args.out)


if __name__ == "__main__":
    main()
