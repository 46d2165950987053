"""At equal compute, does latent consistency fine-tuning beat a style LoRA with the LCM-LoRA beside it?

    python benchmarks/lcf_style.py --pack mini-train --style watercolour --minutes 8

Both learn the same pictures with a LoRA of the same rank for the same minutes on this machine, and draw captions of
held-out concepts in four steps with the LCM-LoRA. KID (features of Inception-v3, as `laur evaluate` takes them) is
against the style's own pictures of those captions, which neither has seen; beside it the floor: two halves of those.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import RESULTS, report
from styled import learn, pixels, styled

from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline.engine import Engine
from laur.train.conditions import plain_prompt
from laur.train.data.reader import TrainingSet
from laur.train.evaluate.features import Inception
from laur.utils.metrics.bootstrap import percentile_interval, resamples
from laur.utils.metrics.kernels import mmd2, mmd2_paired, polynomial_kernel

ACCELERATOR = "lcm-lora-mini"
RANK = 16


def draw(prompts: list[str], adapters: tuple[str, ...]) -> np.ndarray:
    """(n, H, W, 3) in four steps; picture i has seed i."""
    engine = Engine("mini")
    refs = tuple(AdapterRef(name=name) for name in (ACCELERATOR, *adapters))
    recipes = [Recipe(prompt=prompt, seed=i, adapters=refs) for i, prompt in enumerate(prompts)]
    return np.stack([np.asarray(picture.pixels) for picture in engine.pictures(recipes)])


def kid(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """x 1000, with a 95 % interval over the captions."""
    kernels = polynomial_kernel(found, found), polynomial_kernel(wanted, wanted), polynomial_kernel(found, wanted)
    draws = np.array([mmd2_paired(*kernels, weights) for weights in resamples(400, len(found))])
    return {
        key: 1000 * value
        for key, value in percentile_interval(mmd2_paired(*kernels), draws).to_dict().items()
        if key != "level"
    }


def main() -> None:
    """Learn both ways, draw, measure."""
    question = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--style", default="watercolour")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, each")
    parser.add_argument("--learned", type=int, default=240, help="pictures to learn from")
    parser.add_argument("--measured", type=int, default=200, help="held-out pictures to measure against")
    parser.add_argument("--work", type=Path, default=RESULTS / "local" / "lcf_style")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    sets = styled(options.pack, options.style, options.work, learned=options.learned, measured=options.measured)
    held = TrainingSet.open(sets[1])
    network = Inception(torch.device("cpu"))
    wanted = network(pixels(held))
    half = len(wanted) // 2
    halves = wanted[:half], wanted[half:]
    floor = mmd2(*(polynomial_kernel(a, b) for a, b in ((halves[0],) * 2, (halves[1],) * 2, halves)))
    prompts = [plain_prompt(max(texts, key=len)) for texts in held.captions(np.arange(len(held)))]
    ways: dict[str, Any] = {"neither": ()}
    seconds: dict[str, float] = {}
    for name, task in (("style LoRA + LCM-LoRA", "style"), ("LCF + LCM-LoRA", "lcf")):
        begun = time.monotonic()
        out = options.work / f"{options.style}-{task}-{options.minutes:g}"
        ways[name] = (str(learn(task, sets[0], out, minutes=options.minutes, settings={"objective.rank": RANK})),)
        seconds[name] = time.monotonic() - begun
    found = {name: kid(network(draw(prompts, adapters)), wanted) for name, adapters in ways.items()}
    settings = {
        "style": options.style,
        "minutes": options.minutes,
        "rank": RANK,
        "pictures": [options.learned, len(held)],
    }
    report(
        "lcf_style", question, {**settings, "floor": 1000 * floor, "kid_x1000": found, "seconds": seconds}, options.out
    )


if __name__ == "__main__":
    main()
