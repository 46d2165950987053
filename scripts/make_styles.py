"""Train the styles of `mini` one by one: `laur train style` on what teachers make of its own pictures, then 8 bits.

    python scripts/make_styles.py --pack mini-train              all that are not up to date
    python scripts/make_styles.py --pack mini-train oil ink      only these

A style is up to date while its file was made from the same base, teacher, pictures and settings; an interrupted run
goes on where it was. Everything but the finished files lies in --work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

from laur.optimize.lora_file import LoraFile
from laur.pipeline.device import choose
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.style import compact
from laur.style.cards import Card, shipped
from laur.style.teachers import teacher
from laur.train.data.prepare import Wish, prepare
from laur.train.data.reader import TrainingSet
from laur.train.data.sources.own import Own
from laur.train.data.sources.pack import Pack
from laur.train.data.sources.prepared import Prepared
from laur.train.data.sources.restyled import Restyled

CONTENT = (
    "fluent 3d",
    "noto",
    "twemoji",
    "fluent flat",
    "emojione",
    "fluent gradient",
    "noto blob",
    "fxemoji",
    "streamline emoji",
    "flat color icons",
    "3d render",
    "plump",
)
"""Styles of the pack whose captions are drawn: coloured and filled."""
ACCELERATOR = "lcm-lora-mini"
"""With which pictures are drawn, and with which the styles shall be used."""
KEY = "laur.made_from"


def main() -> None:
    """Make what is missing."""
    wish = _arguments()
    loaded = load("mini")
    base = _pictures(wish, loaded)
    cards = [card for card in shipped() if card.teacher and (not wish.names or card.name in wish.names)]
    for card in cards:
        key = _key(wish, card, loaded, base)
        target = wish.out / card.kind / f"{card.name}.safetensors"
        if target.exists() and LoraFile(target).metadata.get(KEY) == key:
            print(f"{card.name}: up to date", flush=True)
            continue
        begun = time.monotonic()
        _make(wish, card, loaded, target, key)
        print(f"{card.name}: {target.stat().st_size:,} bytes after {time.monotonic() - begun:.0f} s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="STYLE", help="only these")
    parser.add_argument("--pack", type=Path, required=True, help="captions: a pack's folder")
    parser.add_argument("--work", type=Path, default=Path("runs/styles"), help="where sets and runs go")
    parser.add_argument("--out", type=Path, default=Path("src/laur/style"), help="where the finished files go")
    parser.add_argument("--pictures", type=int, default=240, help="drawn once, and rendered anew for each style")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=5e-3)
    return parser.parse_args()


def _pictures(wish: argparse.Namespace, loaded: LoadedCheckpoint) -> Path:
    """The set whose pictures the teachers render: the model's own, after captions of the pack. Made once."""
    words, folder = wish.work / f"words-{wish.pictures}", wish.work / f"own-{wish.pictures}"
    settings = Wish(size=loaded.info.native_size, pixels=True)
    prepare(Pack(wish.pack, styles=CONTENT, limit=wish.pictures), words, loaded, settings, place=choose(None))
    prepare(Own(words), folder, loaded, settings, place=choose(None))
    return folder


def _key(wish: argparse.Namespace, card: Card, loaded: LoadedCheckpoint, base: Path) -> str:
    made_from = {
        "base": loaded.info.sha256,
        "teacher": teacher(card.teacher).sha256,
        "pictures": TrainingSet.open(base).info.key,
        "trigger": list(card.triggers("mini")),
        "settings": [wish.updates, wish.batch, wish.lr],
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _make(wish: argparse.Namespace, card: Card, loaded: LoadedCheckpoint, target: Path, key: str) -> None:
    work: Path = wish.work / f"{card.name}-{key[:8]}"
    (trigger,) = card.triggers("mini")
    source = Restyled(Prepared(wish.work / f"own-{wish.pictures}"), teacher(card.teacher), trigger, seed=0)
    prepare(source, work / "set", loaded, Wish(size=loaded.info.native_size), place=choose(None))
    command = [sys.executable, "-m", "laur", "train", "style", "--data", work / "set", "--out", work / "run"]
    command += ["--updates", wish.updates, "--batch", wish.batch, "--lr", wish.lr]
    settings = {
        "objective.rank": "4",
        "objective.accelerator": ACCELERATOR,
        "objective.trigger_words": json.dumps([trigger]),
        "average": "0.95",
        "optimiser.warmup": "10",
        "sheet.updates": "0",
        "save.updates": "50",
        "data.dropout": "0.05",
    }
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    _compact(next((work / "run" / "result").glob("*.safetensors")), target, card, key)


def _compact(source: Path, target: Path, card: Card, key: str) -> None:
    from laur.optimize.merge import layer_shapes

    adapter = LoraFile(source)
    deltas = adapter.deltas(layer_shapes(load("mini").unet(), "unet"))
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {**adapter.metadata, KEY: key, "ss_output_name": card.name, "modelspec.title": card.name}
    compact.write(deltas, target, {**metadata, "modelspec.description": card.words})


if __name__ == "__main__":
    main()
