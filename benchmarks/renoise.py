"""Does fresh noise change the colours of a finished picture?

    python benchmarks/renoise.py [--adapter FILE]

Multistep consistency sampling noises what was drawn, and lets the model decide again. Here pictures that the teacher
drew ("red heart, fluent 3d", …: colour_words.py) are noised to a few timesteps and drawn to the end once more, by
the teacher in six steps of DDIM and by one step of the LCM-LoRA: how much still has the colour that the prompt names?
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from colour_words import COLOURS, THINGS, share
from harness import report
from torch import Tensor

from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.pipeline.loading.load import load
from laur.train.batch import Conditions
from laur.train.conditions import PlainText, plain_prompt
from laur.train.objectives.lcf import merge
from laur.train.objectives.lcm import fresh
from laur.train.objectives.networks import Diffusion, predict

LEVELS = (759, 499, 259)
"""Timesteps after the first of a run in four steps."""
DRAWN, AGAIN = 12, 6
"""Steps of DDIM: from pure noise, and from a level."""
GUIDANCE = 4.0
SHAPE = (4, 32, 32)


class Drawing:
    """The teacher and the student on one batch: every colour with every thing."""

    def __init__(self, adapter: str) -> None:
        loaded, device = load("mini"), torch.device("cpu")
        self.wanted = [(colour, f"{colour} {thing}") for colour in COLOURS for thing in THINGS]
        self.diffusion = Diffusion(loaded.info, device)
        self._teacher, self._student = fresh(loaded, device), fresh(loaded, device)
        merge(self._student, adapter)
        text = PlainText(loaded, device)
        told = [text(plain_prompt(prompt))[0] for _, prompt in self.wanted]
        self._cond = Conditions(torch.stack(told))
        self._uncond = Conditions(text.unconditional().context.expand_as(self._cond.context))
        engine = Engine("mini")
        plan = engine.resolve(Recipe(prompt="any", seed=0)).plan
        self._decoder = engine.library.decoder(plan.stages[-1].checkpoint)

    def at(self, t: int) -> Tensor:
        """A timestep for each picture, (B,)."""
        return torch.full((len(self.wanted),), t)

    @torch.no_grad()
    def to_the_end(self, x: Tensor, t: int, steps: int) -> Tensor:
        """The teacher's picture from x_t, (B, C, h, w)."""
        grid = [round(t - i * t / steps) for i in range(steps)]
        x0 = x
        for now, after in zip(grid, [*grid[1:], None], strict=True):
            at = self.at(now)
            cond, uncond = (predict(self._teacher, x, at, told) for told in (self._cond, self._uncond))
            x0, noise = self.diffusion.split(uncond + GUIDANCE * (cond - uncond), x, at)
            if after is not None:
                x = self.diffusion.ddim(x0, noise, self.at(after))
        return x0

    @torch.no_grad()
    def at_once(self, x: Tensor, t: int) -> Tensor:
        """The student's f(x, t)."""
        return self.diffusion.consistency(predict(self._student, x, self.at(t), self._cond), x, self.at(t))

    def score(self, z: Tensor) -> float:
        """Mean share of the named colour."""
        pictures = [np.asarray(picture) for picture in self._decoder.decode(z)]
        shares = [share(picture, colour) for picture, (colour, _) in zip(pictures, self.wanted, strict=True)]
        return round(float(np.mean(shares)), 3)


def main() -> None:
    """The command line."""
    question = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--adapter", default="lcm-lora-mini", help="an LCM-LoRA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    args = parser.parse_args()
    drawing = Drawing(args.adapter)
    chance = torch.Generator().manual_seed(args.seed)
    began = torch.randn((len(drawing.wanted), *SHAPE), generator=chance)
    last = drawing.diffusion.timesteps - 1
    drawn = drawing.to_the_end(began, last, DRAWN)
    figures: dict[str, object] = {"pictures": len(drawn), "as the teacher drew them": drawing.score(drawn)}
    for level in LEVELS:
        noise = torch.randn(drawn.shape, generator=chance)
        x = drawing.diffusion.noised(drawn, noise, drawing.at(level))
        figures[f"noised to {level}"] = {
            "teacher": drawing.score(drawing.to_the_end(x, level, AGAIN)),
            "student": drawing.score(drawing.at_once(x, level)),
        }
        print(level, figures[f"noised to {level}"], flush=True)
    report("renoise", question, figures, args.out)


if __name__ == "__main__":
    main()
