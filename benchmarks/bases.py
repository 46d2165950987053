"""Which of two bases draws better? Guided, in many steps, from captions of held-out concepts, against real pictures.

    python benchmarks/bases.py OLD NEW --pack mini-train --pictures 200 --sheet sheet.png

A row for each base and one for as many other real pictures of the held-out fold: nothing that is drawn can be expected
to come nearer. Features are Inception-v3's, which no training loss uses; captions are found by the scorer of
`--best-of`. Intervals are bootstrap intervals over captions, and of the difference paired ones. `laur evaluate` asks
another question: how near few steps come to the same base in many.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import RESULTS, report
from numpy.typing import NDArray
from PIL import Image

from laur.core.recipe import Recipe
from laur.pipeline.device import choose
from laur.pipeline.engine import Engine
from laur.pipeline.library import Library
from laur.pipeline.scoring import default_scorer, find_scorer
from laur.train.conditions import plain_prompt
from laur.train.data.picture import Skip
from laur.train.data.sources.fold import Fold
from laur.train.data.sources.pack import Pack
from laur.train.evaluate.features import feature_network
from laur.train.evaluate.gallery import Gallery
from laur.train.evaluate.measure import Measured, Resamples, against, tries
from laur.train.evaluate.metrics import ALL, SCALED, Metric
from laur.train.evaluate.prompts import Prompt, candidates, concept
from laur.utils.sheet import SheetStyle, contact_sheet

if TYPE_CHECKING:
    from laur.pipeline.scoring import Scorer

STYLES = ("fluent 3d", "noto", "twemoji", "fluent flat", "emojione", "fluent gradient", "fxemoji", "streamline emoji")
SIDE = 256
CHOICES = 32
LEVEL = 0.95
REAL = "real pictures, others"
SHOWN = 48
"""Captions of the sheet."""
ACROSS = 4
"""Captions in a row of it."""

Pictures = NDArray[np.uint8]


def held_out(pack: Path, count: int) -> tuple[list[Prompt], Pictures, Pictures]:
    """Captions with their pictures (n, SIDE, SIDE, 3), and as many other pictures: every other one of the fold's."""
    fold = Fold(Pack(pack, styles=STYLES), 2 * count + 40, held_out=True)
    prompts: dict[str, Prompt] = {}
    own: list[Pictures] = []
    others: list[Pictures] = []
    for record in fold.records(0, len(fold)):
        try:
            drawn = record.draw(SIDE)
        except Skip:
            continue
        pixels = np.asarray(drawn.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        text = plain_prompt(max(drawn.captions, key=len))
        if len(own) <= len(others) and text not in prompts:
            prompts[text] = Prompt(text=text, concept=concept(record.name))
            own.append(pixels)
        else:
            others.append(pixels)
    count = min(count, len(own), len(others))
    return list(prompts.values())[:count], np.stack(own[:count]), np.stack(others[:count])


def drawn_by(model: str, prompts: Sequence[Prompt], args: argparse.Namespace, library: Library) -> Pictures:
    """(n, SIDE, SIDE, 3); what is in the work folder already is not drawn again."""
    gallery = Gallery(args.work, Engine(model, library=library))
    recipes = [
        Recipe(
            prompt=prompt.text,
            seed=number,
            steps=args.steps,
            guidance=args.guidance,
            sampler="dpm++2m",
            adapters=(),
            width=SIDE,
            height=SIDE,
        )
        for number, prompt in enumerate(prompts)
    ]
    keys = gallery.draw(recipes)
    print(f"{model}: {len(keys)} pictures", flush=True)
    return gallery.pictures(keys)


def scores(pictures: Pictures, prompts: Sequence[Prompt], scorer: Scorer) -> NDArray[np.float32]:
    """(n, CHOICES), the own caption first."""
    table = candidates(prompts, CHOICES)
    rows = zip(pictures, table, strict=True)
    return np.concatenate([scorer.scores(one[None], [prompts[i].text for i in row]) for one, row in rows])


def entry(metric: Metric, found: Measured) -> dict[str, float]:
    """Value and interval, as the table has them."""
    scale = 100.0 if metric.percent else 1.0
    interval = found.interval(LEVEL)
    ends = {"value": found.value, "low": interval.low, "high": interval.high}
    return {name: round(scale * value, metric.digits) for name, value in ends.items()}


def difference(first: Measured, last: Measured) -> Measured:
    """`last` less `first`, on the same resamples."""
    count = min(len(first.draws), len(last.draws))
    return Measured(last.value - first.value, last.draws[:count] - first.draws[:count], last.centred)


def table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """In Markdown."""
    keys = [key for key in ALL if any(key in row for row in rows.values())]
    lines = ["| | " + " | ".join(ALL[key].title for key in keys) + " |", "|---|" + "---|" * len(keys)]
    for name, row in rows.items():
        cells = (row.get(key) for key in keys)
        words = [f"{c['value']:g} ({c['low']:g} to {c['high']:g})" if c else "" for c in cells]
        lines.append(f"| {name} | " + " | ".join(words) + " |")
    return "\n".join(lines)


def sheet(prompts: Sequence[Prompt], drawings: Mapping[str, Pictures], file: Path) -> None:
    """Each base's picture of the same captions, side by side."""
    rows: list[list[Pictures]] = []
    words: list[list[str]] = []
    shown = np.unique(np.linspace(0, len(prompts) - 1, SHOWN).round().astype(int))  # from end to end: sets lie in rows
    for start in range(0, len(shown), ACROSS):
        places = shown[start : start + ACROSS]
        rows.append([pictures[place] for place in places for pictures in drawings.values()])
        words.append([prompts[place].text if not n else "" for place in places for n, _ in enumerate(drawings)])
    labels = list(drawings) * ACROSS
    style = SheetStyle(cell=(96, 96), gap=4, font_size=10)
    contact_sheet(rows, column_labels=labels, captions=words, style=style).save(file)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, metavar="MODEL", help="the old one, the new one")
    parser.add_argument("--pack", type=Path, required=True, help="captions and real pictures: a pack's folder")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--sheet", type=Path, help=f"a sheet of {SHOWN} captions, old and new")
    parser.add_argument("--work", type=Path, default=RESULTS / "local" / "bases")
    parser.add_argument("--out", type=Path, help="JSON in place of benchmarks/results/bases.json")
    args = parser.parse_args()
    place = choose(None)
    network = feature_network(place.device)  # first: without it all drawing is for nothing
    prompts, own, others = held_out(args.pack, args.pictures)
    library = Library(place)
    drawings = {
        name: drawn_by(model, prompts, args, library) for name, model in zip(("old", "new"), args.models, strict=True)
    }
    if args.sheet:
        sheet(prompts, drawings, args.sheet)
    compared = {REAL: others, **drawings}
    resamples = Resamples.of(len(prompts), 1000)
    columns = against(network(own), {name: network(pictures) for name, pictures in compared.items()}, resamples)
    family = library.checkpoint(args.models[0]).family
    if (scorer_name := default_scorer(family)) is not None:
        scorer = find_scorer(scorer_name, place.device)
        judged = {"their own pictures": own, **drawings}
        columns["caption"] = tries({k: scores(v, prompts, scorer) for k, v in judged.items()}, resamples).found
    rows = tabulated(columns)
    told: dict[str, Any] = {
        "models": {name: library.checkpoint(model).sha256 for name, model in zip(drawings, args.models, strict=True)},
        "captions": len(prompts),
        "steps": args.steps,
        "guidance": args.guidance,
        "network": network.name,
        "scaled by 1000": sorted(SCALED),
        "rows": rows,
    }
    report("bases", (__doc__ or "").partition("\n")[0], told, args.out)
    print(table(rows))


def tabulated(columns: Mapping[str, Mapping[str, Measured]]) -> dict[str, dict[str, dict[str, float]]]:
    """By row and metric, the difference last."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for key, column in columns.items():
        for name, found in column.items():
            rows.setdefault(name, {})[key] = entry(ALL[key], found)
    changes = {key: entry(ALL[key], difference(column["old"], column["new"])) for key, column in columns.items()}
    return {**rows, "new less old": changes}


if __name__ == "__main__":
    main()
