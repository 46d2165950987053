"""Make the styles of `mini` one by one: all weights learn a teacher's pictures, what changed becomes a LoRA in 8 bits.

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
from typing import TYPE_CHECKING

from laur.optimize.algebra import extract
from laur.optimize.deltas import LowRank
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes
from laur.pipeline.device import choose
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.style import compact
from laur.style.cards import Card, shipped
from laur.style.teachers import teacher
from laur.train.data.prepare import Wish, prepare
from laur.train.data.sources.fold import Fold
from laur.train.data.sources.pack import Pack
from laur.train.data.sources.restyled import Restyled
from laur.train.objectives import export

if TYPE_CHECKING:
    from torch import Tensor

CONTENT = ("fluent 3d", "noto", "twemoji", "fluent flat", "emojione", "fluent gradient")
"""Styles of the pack whose pictures are painted: coloured and filled."""
RANK = 4
SETTINGS = {
    "optimiser.name": "adamw",
    "optimiser.lr": "1e-4",
    "optimiser.warmup": "20",
    "average": "0.95",
    "sheet.updates": "0",
    "save.updates": "50",
}
"""Of the fine-tune."""
KEY = "laur.made_from"


def main() -> None:
    """Make what is missing."""
    wish = _arguments()
    loaded = load("mini")
    pictures = Fold(Pack(wish.pack, styles=CONTENT), wish.pictures, held_out=False)
    cards = [card for card in shipped() if card.teacher and (not wish.names or card.name in wish.names)]
    for card in cards:
        key = _key(wish, card, loaded, pictures)
        target = wish.out / card.kind / f"{card.name}.safetensors"
        if target.exists() and LoraFile(target).metadata.get(KEY) == key:
            print(f"{card.name}: up to date", flush=True)
            continue
        begun = time.monotonic()
        tuned = _tuned(wish, card, loaded, pictures, wish.work / f"{card.name}-{key[:8]}")
        error = _compact(tuned, loaded, target, card, key)
        seconds = time.monotonic() - begun
        print(f"{card.name}: {target.stat().st_size:,} bytes, error {error:.2f}, {seconds:.0f} s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="STYLE", help="only these")
    parser.add_argument("--pack", type=Path, required=True, help="captions: a pack's folder")
    parser.add_argument("--work", type=Path, default=Path("runs/styles"), help="where sets and runs go")
    parser.add_argument("--out", type=Path, default=Path("src/laur/style"), help="where the finished files go")
    parser.add_argument("--pictures", type=int, default=240, help="rendered anew for each style")
    parser.add_argument("--updates", type=int, default=270)
    parser.add_argument("--batch", type=int, default=8)
    return parser.parse_args()


def _key(wish: argparse.Namespace, card: Card, loaded: LoadedCheckpoint, pictures: Fold) -> str:
    made_from = {
        "base": loaded.info.sha256,
        "teacher": teacher(card.teacher).sha256,
        "pictures": dict(pictures.describe()),
        "settings": [wish.updates, wish.batch, RANK, SETTINGS],
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _tuned(wish: argparse.Namespace, card: Card, loaded: LoadedCheckpoint, pictures: Fold, work: Path) -> Path:
    """The folder of a checkpoint that paints so."""
    source = Restyled(pictures, teacher(card.teacher), f"{card.name.replace('-', ' ')} style", seed=0)
    prepare(source, work / "set", loaded, Wish(size=loaded.info.native_size), place=choose(None))
    command = [sys.executable, "-m", "laur", "train", "base", "--data", work / "set", "--out", work / "run"]
    command += ["--updates", wish.updates, "--batch", wish.batch]
    for name, value in SETTINGS.items():
        command += ["--set", f"{name}={value}"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return work / "run" / "result"


def _compact(tuned: Path, loaded: LoadedCheckpoint, target: Path, card: Card, key: str) -> float:
    """Write the adapter; the relative error of its rank."""
    weights = [_weights(one) for one in (load(str(tuned)), loaded)]
    deltas, loss = extract(*weights, rank=RANK)
    low = {name: delta for name, delta in deltas.items() if isinstance(delta, LowRank)}
    bare = {name.removeprefix("unet."): delta for name, delta in low.items()}
    metadata = export.adapter_metadata(card.name, bare, loaded, task="style", accelerates=False, trigger_words=())
    target.parent.mkdir(parents=True, exist_ok=True)
    compact.write(low, target, {**metadata, KEY: key, "modelspec.description": card.words})
    return loss.error


def _weights(loaded: LoadedCheckpoint) -> dict[str, Tensor]:
    """Of the UNet's layers that an adapter may change, by canonical parameter name."""
    unet = loaded.unet()
    names = [name.removeprefix("unet.") for name in layer_shapes(unet, "unet")]
    return {f"unet.{name}.weight": unet.get_submodule(name).weight.detach() for name in names}


if __name__ == "__main__":
    main()
