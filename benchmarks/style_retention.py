"""How much of each style, and of what the prompt says, does LCM-LoRA in four steps keep?

    python benchmarks/style_retention.py                       every shipped style whose file is there
    python benchmarks/style_retention.py oil ink --prompts 16  these
    python benchmarks/style_retention.py --folder out/         files of the shipped names in a folder of your own

Against the style's adapter alone in as many steps as the teacher takes, with guidance (laur.train.evaluate.retention).
Styles are told by a classifier that saw none of these pictures, captions read by a scorer that was trained for restyled
pictures. What is drawn is kept in --work, and the same command goes on. Writes a JSON file, a Markdown table, and a
sheet for each style and one of them all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from harness import RESULTS, commit, machine

from laur.pipeline.engine import Engine
from laur.style.cards import KINDS, card, known, shipped
from laur.train.evaluate.kept import WEAK
from laur.train.evaluate.prompts import from_file
from laur.train.evaluate.retention import (
    ALONE,
    BALANCED,
    BARE,
    FEW,
    RetentionWish,
    StyleRetention,
    all_styles,
    retention,
)
from laur.train.evaluate.run import Listener
from laur.train.evaluate.style_classifier import StyleClassifier
from laur.train.evaluate.style_scorer import pool, style_scorer
from laur.utils.sheet import SheetStyle, contact_sheet

PROMPTS = Path(__file__).parent / "prompts"
STYLE_GOAL, CAPTION_GOAL = 0.90, 0.95
KINDS_OF = ("style", "caption")
SHOWN = 8
"""Pictures in a row of a sheet."""
ROWS = {ALONE: "style alone, {long} steps", FEW: "{few} steps", BALANCED: "{few} steps, balanced", BARE: "no style"}


class Told(Listener):
    """A line for each row that is drawn."""

    def phase(self, name: str, total: int) -> None:
        """See Listener."""
        print(f"{time.strftime('%H:%M:%S')} {name}: {total} pictures", flush=True)


def styles_of(args: argparse.Namespace) -> list[str]:
    """Those named, else all of mini whose file is there."""
    order = {kind: place for place, kind in enumerate((*KINDS, "own"))}
    cards = sorted(known().values(), key=lambda found: (order[found.kind], found.name))
    there = [found.name for found in cards if (form := found.forms.get("mini")) and form.file and form.file.is_file()]
    if missing := sorted(set(args.names) - set(there)):
        sys.exit(f"no file for {', '.join(missing)}; there are: {', '.join(there) or 'none'}")
    return args.names or [name for name in there if card(name).teacher]


def home_of(folder: Path, home: Path) -> Path:
    """A user's folder whose styles are the shipped cards over the files of another folder."""
    shutil.rmtree(home, ignore_errors=True)
    files = {file.stem: file for file in sorted(folder.resolve().rglob("*.safetensors"))}
    for one in shipped():
        if one.name in files and one.forms["mini"].file is not None:
            target = home / "styles" / one.kind
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(one.forms["mini"].file.with_name(f"{one.name}.toml"), target)
            (target / one.forms["mini"].file.name).symlink_to(files[one.name])
    return home


def percent(value: dict[str, float]) -> str:
    """With its interval."""
    return f"{100 * value['value']:.0f} ({100 * value['low']:.0f} to {100 * value['high']:.0f})"


def weights(adapters: list[dict[str, Any]]) -> str:
    """What a recipe recorded, in short."""
    words: list[str] = []
    for ref in adapters:
        phases = ", ".join(f"{factor * ref['weight']:.2g} from {part:g}" for part, factor in ref.get("phases") or ())
        blocks = ", ".join(f"{block} x{factor:.2g}" for block, factor in (ref.get("by_block") or {}).items())
        said = phases or f"{ref['weight']:.2g}"
        words.append(f"{Path(ref['name']).stem} {said}" + (f" ({blocks})" if blocks else ""))
    return "; ".join(words)


def table(found: list[dict[str, Any]], together: dict[str, Any]) -> str:
    """As docs/styles.md has it."""
    lines = [
        "| style | style score: alone, few, none | caption found | style kept, % | caption kept, % "
        "| balanced: style | balanced: caption |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        rows = one["rows"]
        scores = [
            ", ".join(f"{rows[row][what]['value']:.2f}" for row in (ALONE, FEW, BARE)) for what in ("style", "found")
        ]
        cells = [percent(one["kept"][row][what]) for row in (FEW, BALANCED) if row in one["kept"] for what in KINDS_OF]
        note = ", ".join(word for word in ("weak", "unread") if one[word])
        lines.append(f"| {one['name']}{f' ({note})' if note else ''} | {' | '.join(scores)} | {' | '.join(cells)} |")
    cells = [percent(together[row][what]) for row in together for what in KINDS_OF]
    return "\n".join([*lines, f"| all | | | {' | '.join(cells)} |"])


def sheet(one: StyleRetention, wish: RetentionWish, engine: Engine, folder: Path, out: Path) -> None:
    """Rows of the same prompts and seeds."""
    from laur.train.evaluate.gallery import Gallery

    gallery = Gallery(folder, engine)
    long = wish.teacher_steps or engine.library.checkpoint(wish.model).defaults.steps
    shown = [row for row in ROWS if row in one.keys]
    pictures = [list(gallery.pictures(one.keys[row][: SHOWN * wish.tries : wish.tries])) for row in shown]
    words = [
        f"{ROWS[row].format(long=long, few=wish.steps)}\nstyle {one.scores[row].style.mean():.2f}, "
        f"caption found {one.scores[row].found.mean():.2f}\n{weights(one.adapters[row])}"
        for row in shown
    ]
    columns = [prompt.concept for prompt in wish.prompts[:SHOWN]]
    style = SheetStyle(cell=(160, 160), row_label_width=170)
    contact_sheet(pictures, row_labels=words, column_labels=columns, title=one.name, style=style).save(out, quality=88)


def overview(found: list[StyleRetention], wish: RetentionWish, engine: Engine, folder: Path, out: Path) -> None:
    """A row of each style in few steps, balanced where that was drawn, under the one without a style."""
    from laur.train.evaluate.gallery import Gallery

    gallery = Gallery(folder, engine)
    rows = [("no style", found[0].keys[BARE]), *((one.name, one.keys.get(BALANCED, one.keys[FEW])) for one in found)]
    pictures = [list(gallery.pictures(keys[: SHOWN * wish.tries : wish.tries])) for _, keys in rows]
    columns = [prompt.concept for prompt in wish.prompts[:SHOWN]]
    style = SheetStyle(cell=(112, 112), row_label_width=100)
    words = [name for name, _ in rows]
    title = f"{wish.steps} steps" + ", balanced" * wish.balanced
    contact_sheet(pictures, row_labels=words, column_labels=columns, title=title, style=style).save(out, quality=88)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="STYLE", help="only these")
    parser.add_argument("--folder", type=Path, default=None, help="files in place of the shipped ones")
    parser.add_argument("--prompts", type=int, default=96, help="so many of prompts/styles.jsonl")
    parser.add_argument("--prompt-file", type=Path, default=PROMPTS / "styles.jsonl")
    parser.add_argument("--tries", type=int, default=1, help="seeds of each prompt")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--teacher-steps", type=int, default=None)
    parser.add_argument("--plain", action="store_true", help="leave out what balance=style gives")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--work", type=Path, default=RESULTS / "local" / "style_retention")
    parser.add_argument("--out", type=Path, default=RESULTS / "style_retention.json")
    args = parser.parse_args()
    if args.folder is not None:
        os.environ["LAUR_HOME"] = str(home_of(args.folder, args.work / "home"))
    engine = Engine("mini", dtype=args.dtype)
    wish = RetentionWish(
        styles=styles_of(args),
        prompts=from_file(args.prompt_file)[: args.prompts],
        pool=pool(PROMPTS / "mini_held_out.jsonl"),
        steps=args.steps,
        teacher_steps=args.teacher_steps,
        tries=args.tries,
        balanced=not args.plain,
    )
    if not wish.styles:
        sys.exit("no style has a file yet; train them: make styles PACK=…")
    begun = time.monotonic()
    classifier = StyleClassifier()
    scorer = style_scorer()
    found = retention(wish, args.work, engine, scorer, classifier, listener=Told())
    figures = {
        "styles": [one.to_dict() for one in found],
        "all": all_styles(found),
        "prompts": len(wish.prompts),
        "tries": wish.tries,
        "steps": wish.steps,
        "weak_below": WEAK,
        "seconds": round(time.monotonic() - begun),
        "scorer": scorer.key,
        "classifier": {
            "key": classifier.key,
            **{k: json.loads(v) for k, v in classifier.said.items() if k == "held_out"},
        },
    }
    for one in found:
        sheet(one, wish, engine, args.work, args.work / f"{one.name}.jpg")
    overview(found, wish, engine, args.work, args.work / "all.jpg")
    text = table(figures["styles"], figures["all"])
    (args.work / "table.md").write_text(text + "\n")
    question = (__doc__ or "").partition("\n")[0]
    record = {"question": question, "commit": commit(), "machine": machine(), "figures": figures}
    args.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(text)
    for one in figures["styles"]:
        for row, ways in one["kept"].items():
            if ways["style"]["value"] < STYLE_GOAL or ways["caption"]["value"] < CAPTION_GOAL:
                print(f"below the goal: {one['name']}, {row}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
