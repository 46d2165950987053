"""Find the weights of `balance="style"` for styles of `mini` and its LCM-LoRA, and write them into the styles' cards.

    python scripts/balance_styles.py                every shipped style whose file is there
    python scripts/balance_styles.py oil ink        these
    python scripts/balance_styles.py --rule         what single courses keep over all of them, for laur.pipeline.balance

Tried are a few courses of the style's weight over the four quarters of a run: the first lays down what a picture
shows, the last its surface; and what the card says already. Where none of them keeps both style and caption, the
search goes on from the best, a quarter at a time; where that does not reach the goals either, factors of blocks come
on top of the best pair and the best course, and the quarters are sought once more; last, guidance above 1, which takes
twice the time. Each is measured as benchmarks/style_retention.py measures, on other prompts and seeds. Kept are the
factors nearest to 1 that meet both goals, or else those that come nearest to them; what gains less than MARGIN over
the plain weight, or by quarters, blocks or guidance over what is simpler, is not worth its card's lines. Interrupted,
it goes on.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from laur.core.recipe import AdapterRef
from laur.pipeline.engine import Engine
from laur.style.cards import Card, shipped
from laur.train.evaluate.prompts import Prompt, from_file
from laur.train.evaluate.retention import FEW, RetentionWish, retention
from laur.train.evaluate.style_classifier import StyleClassifier
from laur.train.evaluate.style_scorer import pool, style_scorer

PROMPTS = Path(__file__).parents[1] / "benchmarks" / "prompts"


class Factors(NamedTuple):
    """Of a style's weight."""

    quarters: tuple[float, float, float, float]
    """Over the run."""
    blocks: tuple[tuple[str, float], ...] = ()
    """On top, as AdapterRef.by_block."""
    guidance: float = 1.0

    @property
    def distance(self) -> float:
        """From the plain weight."""
        return sum(abs(factor - 1) for factor in (*self.quarters, *dict(self.blocks).values(), self.guidance))

    @property
    def kind(self) -> int:
        """How much it takes: 0 a factor for the first quarter and one for the rest, 1 four, 2 blocks too, 3 twice the
        time for guidance."""
        if self.guidance > 1:
            return 3
        return 2 if self.blocks else int(len(set(self.quarters[1:])) > 1)

    @property
    def phases(self) -> tuple[tuple[float, float], ...]:
        """As AdapterRef.phases."""
        of = self.quarters
        return tuple((i / 4, factor) for i, factor in enumerate(of) if i == 0 or factor != of[i - 1])


def pair(first: float, rest: float) -> Factors:
    """One factor in the first quarter of the run, another after it."""
    return Factors((first, rest, rest, rest))


PLAIN = pair(1.0, 1.0)
TRIED = (
    PLAIN,
    *(pair(same, same) for same in (1.25, 0.8, 0.6)),
    pair(1.0, 1.25),
    pair(0.6, 1.0),
    *(pair(0.3, rest) for rest in (0.8, 1.0, 1.25)),
    pair(0.0, 1.0),
)
COURSES = (
    Factors((0.0, 0.6, 1.4, 2.0)),
    Factors((0.3, 0.8, 1.2, 1.6)),
    Factors((1.2, 1.2, 0.8, 0.6)),
)
"""Rising and falling ones, from which the search may set out."""
RULES = (PLAIN, pair(0.3, 1.0), pair(0.3, 1.25), *COURSES[:2])
"""Of which one may hold for pairs of files that were not measured."""
ROUNDS = 3
STEP = 1.4
"""A quarter's factor is multiplied and divided by so much."""
LEAST, MOST = 0.15, 3.0
BLOCKS = (
    (("up", 1.4),),
    (("up", 0.7),),
    (("down", 1.4),),
    (("down", 0.6),),
    (("mid", 0.5),),
    (("down", 0.6), ("up", 1.4)),
    (("down", 1.4), ("up", 0.7)),
)
GUIDANCES = (1.5, 2.0)
STYLE_GOAL, CAPTION_GOAL = 0.95, 1.0
"""A standard error of 86 captions above what is asked for, 0.90 and 0.95."""
MARGIN = 0.02
SAME = 0.01
"""What comes so near to the goals as another is no worse."""
FIRST_SEED = 900_000
Found = dict[Factors, tuple[float, float]]
"""What some factors keep of style and caption."""
Measure = Callable[[Factors], tuple[float, float]]


def prompts_of(count: int) -> list[Prompt]:
    """Held-out captions of other concepts than the benchmark draws."""
    return from_file(PROMPTS / "balance.jsonl")[:count]


def reached(style: float, caption: float) -> float:
    """How much of the goals: 1 where both are met."""
    return min(1.0, style / STYLE_GOAL, caption / CAPTION_GOAL)


def chosen(found: Found) -> Factors:
    """The factors to take, from what each kept of style and caption."""
    level, taken = reached(*found[PLAIN]), PLAIN
    for kind in range(4):
        within = {factors: kept for factors, kept in found.items() if factors.kind == kind}
        best = max((reached(*kept) for kept in within.values()), default=0.0)
        if best - level < MARGIN:
            continue
        good = [factors for factors, kept in within.items() if reached(*kept) > best - SAME]
        taken = min(good, key=lambda factors: (round(-_sum(*found[factors]), 2), factors.distance))
        level = reached(*found[taken])
    return taken


def neighbours(factors: Factors) -> list[Factors]:
    """One quarter's factor larger or smaller."""
    found: list[Factors] = []
    for i, old in enumerate(factors.quarters):
        for new in (old * STEP if old else 2 * LEAST, old / STEP):
            kept = 0.0 if new < LEAST else round(min(new, MOST), 2)
            if kept != old:
                quarters = (*factors.quarters[:i], kept, *factors.quarters[i + 1 :])
                found.append(factors._replace(quarters=quarters))
    return found


def search(measure: Measure, *, before: Factors = PLAIN, pairs_alone: bool = False) -> Factors:
    """The factors to take, by what `measure` says that some keep of style and caption; `before` are tried too."""
    found = {factors: measure(factors) for factors in dict.fromkeys((*TRIED, before))}
    if not pairs_alone:
        _by_course_and_block(found, measure)
    _by_guidance(found, measure)
    return chosen(found)


def _by_guidance(found: Found, measure: Measure) -> None:
    """Over what keeps most of the style, and of both: the caption is what guidance brings back."""
    if reached(*found[chosen(found)]) >= 1:
        return
    enough = [factors for factors, (style, _) in found.items() if style >= STYLE_GOAL] or [PLAIN]
    bases = {chosen(found), max(enough, key=lambda factors: found[factors][1]), PLAIN}
    for guidance in GUIDANCES:
        for base in sorted(bases):
            factors = base._replace(guidance=guidance)
            found[factors] = measure(factors)
        if max(reached(*kept) for kept in found.values()) >= 1:
            return


def _by_course_and_block(found: Found, measure: Measure) -> None:
    if reached(*found[chosen(found)]) < 1:
        found |= {factors: measure(factors) for factors in COURSES}
    _climb(found, measure)
    taken = chosen(found)
    if reached(*found[taken]) < 1:
        bases = {
            taken,
            max((factors for factors in found if factors.kind == 0), key=lambda pair: reached(*found[pair])),
        }
        wanted = [base._replace(blocks=blocks) for base in sorted(bases) for blocks in BLOCKS]
        found |= {factors: measure(factors) for factors in wanted}
        _climb(found, measure)


def _climb(found: Found, measure: Measure) -> None:
    """From the best that is found, a quarter at a time, until the goals are met or nothing is gained."""
    for _ in range(ROUNDS):
        best = max(found, key=lambda factors: (reached(*found[factors]), _sum(*found[factors])))
        if reached(*found[best]) >= 1:
            return
        found |= {factors: measure(factors) for factors in neighbours(best) if factors not in found}
        if max(reached(*kept) for kept in found.values()) - reached(*found[best]) < SAME:
            return


def words(factors: Factors) -> str:
    """For a line."""
    quarters = " ".join(f"{factor:g}" for factor in factors.quarters)
    more = [f"{name} x{by:g}" for name, by in factors.blocks]
    return ", ".join([quarters, *more, *([f"guidance {factors.guidance:g}"] if factors.guidance > 1 else [])])


def _sum(style: float, caption: float) -> float:
    """Of the goals' parts that are reached: what tells between two of which each misses one goal by as much."""
    return min(1.0, style / STYLE_GOAL) + min(1.0, caption / CAPTION_GOAL)


def rules(kept: dict[Factors, list[tuple[float, float]]]) -> list[str]:
    """A line for each course: the means over styles of what it keeps, and of how much of the goals it reaches."""
    lines: list[str] = []
    for factors, found in kept.items():
        style, caption = (sum(of) / len(found) for of in zip(*found, strict=True))
        level = sum(reached(*one) for one in found) / len(found)
        lines.append(
            f"{words(factors)}: style {style:.2f}, caption {caption:.2f}, reached {level:.2f}, {len(found)} styles"
        )
    return lines


def said(card: Card, style: str, accelerator: str) -> Factors:
    """What the card says for these files."""
    for one in card.balances:
        if (one.style, one.accelerator) == (style, accelerator):
            quarters = [
                [factor for begin, factor in one.phases or ((0.0, 1.0),) if begin <= quarter / 4][-1]
                for quarter in range(4)
            ]
            return Factors(tuple(quarters), tuple((one.by_block or {}).items()), one.guidance or 1.0)  # type: ignore[arg-type]
    return PLAIN


def write(card: Card, style: str, accelerator: str, factors: Factors) -> None:
    """Into the card, in place of what was there. Factors of 1 are written too: they were measured."""
    form = card.forms["mini"]
    assert form.file is not None
    path = form.file.with_name(f"{card.name}.toml")
    text = re.sub(r"\n*\[\[balance\]\]\n(?:[^\[\n][^\n]*\n?)*", "\n", path.read_text("utf-8")).rstrip("\n")
    phases = f"[{', '.join(f'[{begin}, {factor}]' for begin, factor in factors.phases)}]"
    lines = f'[[balance]]\nstyle = "{style}"\naccelerator = "{accelerator}"\nphases = {phases}\n'
    if factors.blocks:
        lines += f"by_block = {{{', '.join(f'{block} = {factor}' for block, factor in factors.blocks)}}}\n"
    if factors.guidance > 1:
        lines += f"guidance = {factors.guidance}\n"
    path.write_text(f"{text}\n\n{lines}", "utf-8")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="STYLE", help="only these")
    parser.add_argument("--prompts", type=int, default=86, help="so many of prompts/balance.jsonl")
    parser.add_argument("--teacher-steps", type=int, default=None)
    parser.add_argument("--work", type=Path, default=Path("runs/balance"))
    parser.add_argument("--pairs", action="store_true", help="seek among pairs of factors alone: a quarter of the time")
    parser.add_argument("--rule", action="store_true", help="measure RULES alone, and leave the cards as they are")
    parser.add_argument("--dry", action="store_true", help="print, and leave the cards as they are")
    args = parser.parse_args()
    engine, classifier, scorer = Engine("mini"), StyleClassifier(), style_scorer()
    accelerator = engine.library.adapter("lcm-lora-mini").sha256
    kept: dict[Factors, list[tuple[float, float]]] = {factors: [] for factors in RULES}
    for card in shipped():
        form = card.forms.get("mini")
        wanted = card.name in args.names if args.names else bool(card.teacher)
        if not wanted or form is None or form.file is None or not form.file.is_file():
            continue

        def measure(factors: Factors, card: Card = card, weight: float = form.weight) -> tuple[float, float]:
            blocks = dict(factors.blocks) or None
            ref = AdapterRef(name=card.name, weight=weight, phases=factors.phases, by_block=blocks)
            wish = RetentionWish(
                styles=[card.name],
                prompts=prompts_of(args.prompts),
                pool=pool(PROMPTS / "mini_held_out.jsonl"),
                teacher_steps=args.teacher_steps,
                balanced=False,
                refs={card.name: ref},
                first_seed=FIRST_SEED,
                fields={"guidance": factors.guidance} if factors.guidance > 1 else {},
            )
            (one,) = retention(wish, args.work, engine, scorer, classifier)
            style, caption = one.kept[FEW].style.value, one.kept[FEW].caption.value
            note = " (weak)" * one.weak + " (unread)" * one.unread
            print(f"{card.name}{note} {words(factors)}: style {style:.2f}, caption {caption:.2f}", flush=True)
            return style, caption

        if args.rule:
            for factors, of in kept.items():
                of.append(measure(factors))
            continue
        style = engine.library.adapter(card.name).sha256
        taken = search(measure, before=said(card, style, accelerator), pairs_alone=args.pairs)
        print(f"{card.name}: {words(taken)}", flush=True)
        if not args.dry:
            write(card, style, accelerator, taken)
    if args.rule:
        print("\n".join(rules(kept)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
