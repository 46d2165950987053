"""How many adapters may be stacked, and how strong may they be, before a picture loses what its prompt says?

    python benchmarks/stacked_adapters.py --prompts 64 --docs               # the styles that ship
    python benchmarks/stacked_adapters.py a.safetensors b.safetensors …     # these

Each prompt (a held-out caption without colours: styles change those) is drawn with none, then with 1 to 8 of the
adapters, in an order of its own, at their full weight; then with one of them at rising weights. Their words are left
out, so that nothing but weights changes. The scorer for restyled pictures (laur.train.evaluate.style_scorer) says for
each picture how many captions of other things fit it less than its own; agreement is twice that share less one: 1 is
always, 0 is chance. Both curves are put over the strength of the mix (`laur.optimize.strength`); the limit is where
agreement falls below --keep of what it is with one adapter. As a multiple of the strength of one it goes into
`laur.pipeline.mixes.LIMIT` by hand.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, report

from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline.engine import Engine
from laur.train.evaluate.prompts import Prompt, candidates, chosen
from laur.train.evaluate.style_scorer import pool, style_scorer
from laur.utils.metrics.agreement import retrieved
from laur.utils.metrics.bootstrap import mean_interval, resamples

PROMPTS = Path(__file__).parent / "prompts" / "mini_held_out.jsonl"
WEIGHTS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
CHOICES = 32
DOCS = ROOT / "docs" / "adapters.md"
MARKS = "<!-- stacked -->", "<!-- /stacked -->"


@dataclass(frozen=True)
class Drawn:
    """One condition, by prompt."""

    count: int
    weight: float
    strength: np.ndarray
    scores: np.ndarray
    """(P, choices), the own caption first."""

    @property
    def agreement(self) -> np.ndarray:
        """(P,) -1 … 1."""
        return 2 * (self.scores[:, 1:] < self.scores[:, :1]).mean(1) - 1

    @property
    def row(self) -> dict[str, Any]:
        """For the JSON."""
        between = mean_interval(self.agreement, resamples(2000, len(self.scores)))
        return {
            "adapters": self.count,
            "weight": self.weight,
            "strength": float(self.strength.mean()),
            "agreement": float(self.agreement.mean()),
            "interval": [between.low, between.high],
            "found": float(retrieved(self.scores, np.zeros(len(self.scores), np.int64)).mean()),
        }


def draw(engine: Engine, prompts: Sequence[Prompt], mixes: Sequence[tuple[AdapterRef, ...]]) -> tuple[Any, np.ndarray]:
    """Pictures (P, H, W, 3), and how strong each mix is."""
    fast = engine.library.checkpoint("mini").defaults.adapters
    own = tuple(AdapterRef(name=name) for name in fast)
    pictures, strengths = [], []
    for start in range(0, len(prompts), 8):
        part = slice(start, start + 8)
        recipes = [
            Recipe(prompt=prompt.text, seed=start + place, steps=4, adapters=(*own, *mix))
            for place, (prompt, mix) in enumerate(zip(prompts[part], mixes[part], strict=True))
        ]
        jobs = [engine.resolve(recipe) for recipe in recipes]
        for job in jobs:
            stage = job.plan.stages[0]
            strengths.append(engine.library.mixes.strength(stage.checkpoint, stage.adapters[len(own) :]).overall)
        pictures += [picture.pixels for picture in engine.pictures(jobs)]
    return np.stack(pictures), np.array(strengths)


def recorded(engine: Engine, name: str, weight: float) -> AdapterRef:
    """With its content, by which its words stay out of the prompt."""
    return AdapterRef(name=name, weight=weight, sha256=engine.library.adapter(name).sha256)


def limit_of(strength: np.ndarray, found: np.ndarray, level: float) -> float | None:
    """Where agreement, falling by assumption, crosses `level`: isotonic regression by pooling adjacent violators."""
    order = np.argsort(strength, kind="stable")
    blocks: list[list[float]] = []
    for place, value in zip(strength[order], found[order], strict=True):
        blocks.append([value, 1.0, place])
        while len(blocks) > 1 and blocks[-2][0] <= blocks[-1][0]:
            value_b, size_b, last = blocks.pop()
            value_a, size_a, _ = blocks.pop()
            size = size_a + size_b
            blocks.append([(value_a * size_a + value_b * size_b) / size, size, last])
    within = [last for value, _, last in blocks if value >= level]
    return within[-1] if within and len(within) < len(blocks) else None


@dataclass(frozen=True)
class Curves:
    """All that was drawn."""

    none: Drawn
    stacks: list[Drawn]
    """1 to 8 at full weight."""
    scan: list[Drawn]
    """One at rising weights."""
    keep: float

    @property
    def all(self) -> list[Drawn]:
        """Each condition once."""
        return [self.none, *self.stacks, *self.scan[1:]]

    @property
    def level(self) -> float:
        """Agreement at the limit."""
        return self.keep * float(self.stacks[0].agreement.mean())

    @property
    def limit(self) -> float | None:
        """The strength at which agreement falls below `level`; None where it does not."""
        strength = np.concatenate([one.strength for one in self.all])
        return limit_of(strength, np.concatenate([one.agreement for one in self.all]), self.level)

    def plot(self, path: Path) -> None:
        """Agreement over the number of adapters, and over strength."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot

        figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
        for axes, drawn, label, key in (
            (left, self.stacks, "stacked", "adapters"),
            (right, self.stacks, "1 to 8 stacked", "strength"),
            (right, self.scan, "one at rising weight", "strength"),
        ):
            rows = [one.row for one in drawn]
            across, up = [row[key] for row in rows], np.array([row["agreement"] for row in rows])
            error = np.abs(np.array([row["interval"] for row in rows]).T - up)
            axes.errorbar(across, up, yerr=error, marker="o", capsize=3, label=label)
            axes.axhline(self.none.agreement.mean(), color="grey", linewidth=1)
            axes.axhline(self.level, color="grey", linewidth=1, linestyle="--")
        if self.limit is not None:
            right.axvline(self.limit, color="crimson", linewidth=1, label=f"limit {self.limit:.2g}")
        left.set(xlabel="adapters at full weight", ylabel="agreement with the caption")
        right.set(xlabel="strength of the mix, ‖ΣwΔ‖ / ‖W‖")
        right.legend()
        figure.savefig(path, dpi=110)

    def table(self) -> str:
        """As docs/adapters.md has it."""
        lines = [
            f"| adapters | weight | strength | agreement | found among {self.none.scores.shape[1]} |",
            "|---|---|---|---|---|",
        ]
        for row in (one.row for one in self.all):
            low, high = row["interval"]
            said = f"| {row['adapters']} | {row['weight']:g} | {row['strength']:.3f} "
            lines.append(said + f"| {row['agreement']:.2f} ({low:.2f} to {high:.2f}) | {row['found']:.0%} |")
        limit = self.limit
        one = float(self.stacks[0].strength.mean())
        end = (
            "was not reached" if limit is None else f"is a strength of {limit:.3f}, {limit / one:.1f} times that of one"
        )
        words = f"{len(self.none.scores)} prompts; the limit, {self.keep:.0%} of the agreement with one adapter, {end}."
        return "\n".join([*lines, "", words])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="*", help="files or names; the styles that have a file for mini by default")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "stacked_adapters.png")
    parser.add_argument("--sheet", type=Path, default=None, help="eight of the prompts with each mix, to be looked at")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/adapters.md")
    args = parser.parse_args()
    names = args.adapters or shipped()
    engine = Engine("mini")
    prompts = chosen(list({prompt.concept: prompt for prompt in pool(PROMPTS)}.values()), args.prompts)
    others = min(sum(other.concept != prompt.concept for other in prompts) for prompt in prompts)
    table_of = candidates(prompts, min(CHOICES, others + 1))
    scorer = style_scorer()
    shown: list[list[Any]] = []

    def run(count: int, weight: float) -> Drawn:
        orders = [random.Random(number).sample(names, len(names)) for number in range(len(prompts))]
        mixes = [tuple(recorded(engine, name, weight) for name in order[:count]) for order in orders]
        pixels, strength = draw(engine, prompts, mixes)
        shown.append(list(pixels[:8]))
        scores = [
            scorer.scores(pixels[place : place + 1], [prompts[other].text for other in row])
            for place, row in enumerate(table_of)
        ]
        drawn = Drawn(count, weight, strength, np.concatenate(scores))
        print(", ".join(f"{key} {value}" for key, value in drawn.row.items()), flush=True)
        return drawn

    none = run(0, 1.0)
    stacks = [run(count, 1.0) for count in range(1, min(8, len(names)) + 1)]
    scan = [stacks[0], *(run(1, weight) for weight in args.weights if weight != 1.0)]
    curves = Curves(none, stacks, scan, args.keep)
    figures = {
        "prompts": len(prompts),
        "adapters": [Path(name).stem for name in names],
        "without": none.row,
        "stacked": [drawn.row for drawn in stacks],
        "one": [drawn.row for drawn in scan],
        "keep": args.keep,
        "limit": curves.limit,
    }
    report("stacked_adapters", (__doc__ or "").partition("\n")[0], figures, args.out)
    curves.plot(args.plot)
    print(curves.table())
    if args.docs:
        into_docs(curves.table())
    if args.sheet is not None:
        show(args.sheet, shown, curves.all)


def into_docs(words: str) -> None:
    """Between the marks of docs/adapters.md."""
    begin, end = MARKS
    text = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n\n{words}\n\n{end}", DOCS.read_text(), flags=re.DOTALL)
    DOCS.write_text(text)


def shipped() -> list[str]:
    """The styles that have a file for mini."""
    from laur.style.cards import shipped as cards

    forms = [(card.name, card.forms.get("mini")) for card in cards()]
    return [name for name, form in forms if form is not None and form.file is not None and form.file.is_file()]


def show(path: Path, shown: list[list[Any]], every: list[Drawn]) -> None:
    """A row for each condition."""
    from PIL import Image

    from laur.utils.sheet import contact_sheet

    rows = [[Image.fromarray(pixels) for pixels in row] for row in shown]
    labels = [f"{drawn.count} at {drawn.weight:g}\n{drawn.strength.mean():.2f}" for drawn in every]
    contact_sheet(rows, row_labels=labels).save(path)


if __name__ == "__main__":
    main()
