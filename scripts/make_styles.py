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
from laur.train.data.sources.fold import Fold
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
STEPS = 4
"""Of the way that is painted."""
SETTINGS = {
    "optimiser.lr": "2e-3",
    "optimiser.warmup": "10",
    "average": "0.95",
    "objective.rank": "8",
    # what a thing is made of is drawn by the last blocks; learned in all of them, a style takes its shapes with it
    "objective.targets": '["up_blocks.1.*", "up_blocks.2.*"]',
    "objective.accelerator": ACCELERATOR,
    "objective.distance": "pseudo_huber",
    "objective.huber": "0.05",
    "data.dropout": "0.05",
    "sheet.updates": "0",
    "save.updates": "50",
}
KEY = "laur.made_from"


def main() -> None:
    """Make what is missing."""
    wish = _arguments()
    loaded = load("mini")
    way = _way(wish, loaded)
    cards = [card for card in shipped() if card.teacher and (not wish.names or card.name in wish.names)]
    for card in cards:
        key = _key(wish, card, loaded, way)
        target = wish.out / card.kind / f"{card.name}.safetensors"
        if target.exists() and LoraFile(target).metadata.get(KEY) == key:
            print(f"{card.name}: up to date", flush=True)
            continue
        begun = time.monotonic()
        made = _painted(card, loaded, way, wish.work / f"{card.name}-{key[:8]}")
        _compact(_learned(wish, made), target, card, key)
        print(f"{card.name}: {target.stat().st_size:,} bytes after {time.monotonic() - begun:.0f} s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="STYLE", help="only these")
    parser.add_argument("--pack", type=Path, required=True, help="captions: a pack's folder")
    parser.add_argument("--work", type=Path, default=Path("runs/styles"), help="where sets and runs go")
    parser.add_argument("--out", type=Path, default=Path("src/laur/style"), help="where the finished files go")
    parser.add_argument("--pictures", type=int, default=120, help="drawn once, and rendered anew for each style")
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--batch", type=int, default=4)
    return parser.parse_args()


def _way(wish: argparse.Namespace, loaded: LoadedCheckpoint) -> list[Path]:
    """The sets whose pictures the teachers render: what the model itself predicts at each step, after captions of the
    pack whose concepts are not held out. Made once."""
    words = wish.work / f"words-{wish.pictures}"
    settings = Wish(size=loaded.info.native_size, pixels=True)
    source = Fold(Pack(wish.pack, styles=CONTENT), wish.pictures, held_out=False)
    prepare(source, words, loaded, settings, place=choose(None))
    folders = [wish.work / f"own-{wish.pictures}-{number}" for number in range(1, STEPS + 1)]
    for number, folder in enumerate(folders, 1):
        prepare(Own(words, steps=STEPS, until=number), folder, loaded, settings, place=choose(None))
    return folders


def _key(wish: argparse.Namespace, card: Card, loaded: LoadedCheckpoint, way: list[Path]) -> str:
    made_from = {
        "base": loaded.info.sha256,
        "teacher": teacher(card.teacher).sha256,
        "pictures": [TrainingSet.open(folder).info.key for folder in way],
        "settings": [wish.updates, wish.batch, SETTINGS],
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _painted(card: Card, loaded: LoadedCheckpoint, way: list[Path], work: Path) -> list[Path]:
    """The sets of the way, rendered by the style's teacher."""
    painted = [work / f"set-{number}" for number in range(1, STEPS + 1)]
    for folder, own in zip(painted, way, strict=True):
        # without words of its own: any that are added would make the model draw another picture
        source = Restyled(Prepared(own), teacher(card.teacher), "", seed=0)
        prepare(source, folder, loaded, Wish(size=loaded.info.native_size), place=choose(None))
    return painted


def _learned(wish: argparse.Namespace, painted: list[Path]) -> Path:
    """The adapter as it was trained."""
    run = painted[0].parent / "run"
    command = [sys.executable, "-m", "laur", "train", "style", "--data", painted[-1], "--out", run]
    command += ["--updates", wish.updates, "--batch", wish.batch]
    for name, value in {**SETTINGS, "objective.path": json.dumps([str(folder) for folder in painted[:-1]])}.items():
        command += ["--set", f"{name}={value}"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return next((run / "result").glob("*.safetensors"))


def _compact(source: Path, target: Path, card: Card, key: str) -> None:
    from laur.optimize.merge import layer_shapes

    adapter = LoraFile(source)
    deltas = adapter.deltas(layer_shapes(load("mini").unet(), "unet"))
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {**adapter.metadata, KEY: key, "ss_output_name": card.name, "modelspec.title": card.name}
    compact.write(deltas, target, {**metadata, "modelspec.description": card.words})


if __name__ == "__main__":
    main()
