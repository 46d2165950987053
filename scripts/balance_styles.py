"""Find the weights of `balance="style"` for styles of `mini` and its LCM-LoRA, and write them into the styles' cards.

    python scripts/balance_styles.py                every shipped style whose file is there
    python scripts/balance_styles.py oil ink        these

Tried are a few factors of the style's weight: one for the first quarter of the run, in which it is laid down what a
picture shows, and one for the rest. Each is measured as benchmarks/style_retention.py measures, on
other prompts and seeds. Kept are the factors nearest to 1 that meet both goals, or else those that come nearest to
them; what gains less than MARGIN over the plain weight is not worth its card's lines. Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

from laur.core.recipe import AdapterRef
from laur.pipeline.engine import Engine
from laur.style.cards import Card, shipped
from laur.train.evaluate.prompts import Prompt, from_file
from laur.train.evaluate.retention import FEW, RetentionWish, retention
from laur.train.evaluate.style_classifier import StyleClassifier
from laur.train.evaluate.style_scorer import pool, style_scorer

PROMPTS = Path(__file__).parents[1] / "benchmarks" / "prompts"
TRIED = (
    (1.0, 1.0),
    (1.0, 1.25),
    (1.25, 1.25),
    (1.5, 1.5),
    (0.8, 1.25),
    (0.8, 1.0),
    (0.8, 0.8),
    (0.6, 1.0),
    (0.6, 0.8),
    (0.6, 0.6),
    (0.3, 1.0),
    (0.3, 1.25),
    (0.3, 1.5),
)
"""Factors in the first quarter of the run and after it."""
FROM = 0.25
STYLE_GOAL, CAPTION_GOAL = 0.92, 0.97
"""A little above what is asked for, since it is measured on few prompts."""
MARGIN = 0.03
SAME = 0.01
"""What comes so near to the goals as another is no worse."""
FIRST_SEED = 900_000


def prompts_of(count: int) -> list[Prompt]:
    """Held-out captions of other concepts than the benchmark draws."""
    drawn = {prompt.concept for prompt in from_file(PROMPTS / "styles.jsonl")}
    found = {prompt.concept: prompt for prompt in pool(PROMPTS / "mini_held_out.jsonl") if prompt.concept not in drawn}
    return sorted(found.values(), key=lambda prompt: hashlib.sha256(prompt.text.encode()).digest())[:count]


def reached(style: float, caption: float) -> float:
    """How much of the goals: 1 where both are met."""
    return min(1.0, style / STYLE_GOAL, caption / CAPTION_GOAL)


def chosen(found: dict[tuple[float, float], tuple[float, float]]) -> tuple[float, float]:
    """The factors to take, from what each kept of style and caption."""
    best = max(reached(*kept) for kept in found.values())
    plain = reached(*found[1.0, 1.0])
    if best - plain < MARGIN:
        return 1.0, 1.0
    good = [factors for factors, kept in found.items() if reached(*kept) > best - SAME]
    return min(good, key=lambda factors: (round(-_sum(*found[factors]), 2), sum(abs(factor - 1) for factor in factors)))


def _sum(style: float, caption: float) -> float:
    """Of the goals' parts that are reached: what tells between two of which each misses one goal by as much."""
    return min(1.0, style / STYLE_GOAL) + min(1.0, caption / CAPTION_GOAL)


def write(card: Card, style: str, accelerator: str, factors: tuple[float, float]) -> None:
    """Into the card, in place of what was there. Factors of 1 are written too: they were measured."""
    form = card.forms["mini"]
    assert form.file is not None
    path = form.file.with_name(f"{card.name}.toml")
    text = re.sub(r"\n*\[\[balance\]\]\n(?:[^\[\n][^\n]*\n?)*", "\n", path.read_text("utf-8")).rstrip("\n")
    phases = f"[[0.0, {factors[0]}], [{FROM}, {factors[1]}]]" if factors[0] != factors[1] else f"[[0.0, {factors[0]}]]"
    lines = f'[[balance]]\nstyle = "{style}"\naccelerator = "{accelerator}"\nphases = {phases}\n'
    path.write_text(f"{text}\n\n{lines}", "utf-8")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="STYLE", help="only these")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--teacher-steps", type=int, default=None)
    parser.add_argument("--work", type=Path, default=Path("runs/balance"))
    parser.add_argument("--dry", action="store_true", help="print, and leave the cards as they are")
    args = parser.parse_args()
    engine, classifier, scorer = Engine("mini"), StyleClassifier(), style_scorer()
    accelerator = engine.library.adapter("lcm-lora-mini").sha256
    for card in shipped():
        form = card.forms.get("mini")
        wanted = card.name in args.names if args.names else bool(card.teacher)
        if not wanted or form is None or form.file is None or not form.file.is_file():
            continue
        found: dict[tuple[float, float], tuple[float, float]] = {}
        for factors in TRIED:
            phases = ((0.0, factors[0]), (FROM, factors[1]))
            wish = RetentionWish(
                styles=[card.name],
                prompts=prompts_of(args.prompts),
                pool=pool(PROMPTS / "mini_held_out.jsonl"),
                teacher_steps=args.teacher_steps,
                balanced=False,
                refs={card.name: AdapterRef(name=card.name, weight=form.weight, phases=phases)},
                first_seed=FIRST_SEED,
            )
            (one,) = retention(wish, args.work, engine, scorer, classifier)
            found[factors] = one.kept[FEW].style.value, one.kept[FEW].caption.value
            note = " (weak)" * one.weak + " (unread)" * one.unread
            print(
                f"{card.name}{note} {factors}: style {found[factors][0]:.2f}, caption {found[factors][1]:.2f}",
                flush=True,
            )
        taken = chosen(found)
        print(f"{card.name}: {taken}", flush=True)
        if not args.dry:
            write(card, engine.library.adapter(card.name).sha256, accelerator, taken)
    return 0


if __name__ == "__main__":
    sys.exit(main())
