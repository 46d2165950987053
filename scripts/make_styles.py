"""Make the styles of `mini` one by one: all weights learn a teacher's pictures, what changed becomes a LoRA in 8 bits.

A low rank leaves most of the change behind, so the LoRA then learns what the changed network predicts, alone and with
the LCM-LoRA in its weights (`objective.teacher`, `objective.accelerator`).

The teacher paints over icons of the pack or, of most styles, over what mini itself draws from their captions in four
steps: then there is the style alone to learn, and subjects stay as they were.

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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from laur.models import adapter_file
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
from laur.train.data.sources.folder import Folder
from laur.train.data.sources.own import Own
from laur.train.data.sources.pack import Pack
from laur.train.data.sources.restyled import Restyled
from laur.train.objectives import export

if TYPE_CHECKING:
    from torch import Tensor

    from laur.train.data.picture import Source

CONTENT = ("fluent 3d", "noto", "twemoji", "fluent flat", "emojione", "fluent gradient")
"""Styles of the pack whose pictures are painted: coloured and filled."""
RANK = 4
"""What conv_out of mini has: the mending takes one rank for all layers."""
OVER_ICONS = frozenset(
    ("fauvism", "impressionism", "ink", "paper-cut", "pencil", "pixel-art", "pointillism", "ukiyo-e", "watercolour")
)
"""Painted over icons; the others over mini's own pictures."""
SETTINGS = {
    "optimiser.name": "adamw",
    "optimiser.lr": "1e-4",
    "optimiser.warmup": "20",
    "average": "0.95",
    "sheet.updates": "0",
    "save.updates": "50",
}
"""Of the fine-tune."""
ACCELERATOR = "lcm-lora-mini"
MENDING = {
    "objective.accelerator": ACCELERATOR,
    "objective.targets": '["*"]',
    "objective.timesteps": "uniform",
    "optimiser.name": "adamw",
    "optimiser.lr": "2e-4",
    "optimiser.warmup": "10",
    "sheet.updates": "0",
    "save.updates": "50",
}
"""Of the LoRA that learns from the fine-tune."""
KEY = "laur.made_from"


def main() -> None:
    """Make what is missing."""
    wish = _arguments()
    loaded = load("mini")
    cards = [card for card in shipped() if card.teacher and (not wish.names or card.name in wish.names)]
    for card in cards:
        over_icons = card.name in OVER_ICONS
        icons = Fold(Pack(wish.pack, styles=CONTENT), wish.pictures if over_icons else wish.own, held_out=False)
        key = _key(wish, card, loaded, icons)
        target = wish.out / card.kind / f"{card.name}.safetensors"
        if target.exists() and LoraFile(target).metadata.get(KEY) == key:
            print(f"{card.name}: up to date", flush=True)
            continue
        begun = time.monotonic()
        beneath = icons if over_icons else _own(wish, loaded, icons)
        work = wish.work / f"{card.name}-{key[:8]}"
        tuned = _tuned(wish, card, loaded, beneath, work)
        low, error = _extracted(tuned, loaded)
        if wish.mending:
            low = _mended(wish, card, loaded, low, work)
        _compact(low, loaded, target, card, key)
        seconds = time.monotonic() - begun
        print(
            f"{card.name}: {target.stat().st_size:,} bytes, rank {RANK} leaves {error:.2f}, {seconds:.0f} s",
            flush=True,
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="STYLE", help="only these")
    parser.add_argument("--pack", type=Path, required=True, help="captions: a pack's folder")
    parser.add_argument("--work", type=Path, default=Path("runs/styles"), help="where sets and runs go")
    parser.add_argument("--out", type=Path, default=Path("src/laur/style"), help="where the finished files go")
    parser.add_argument("--pictures", type=int, default=240, help="icons rendered anew for a style")
    parser.add_argument("--own", type=int, default=480, help="mini's own pictures, painted over for a style")
    parser.add_argument("--updates", type=int, default=270)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--mending", type=int, default=130, help="updates of the LoRA by what the fine-tune predicts")
    return parser.parse_args()


def _key(wish: argparse.Namespace, card: Card, loaded: LoadedCheckpoint, icons: Fold) -> str:
    made_from: dict[str, Any] = {
        "base": loaded.info.sha256,
        "teacher": teacher(card.teacher).sha256,
        "pictures": dict(icons.describe()),
        "settings": [wish.updates, wish.batch, RANK, SETTINGS, wish.mending, MENDING],
    }
    if wish.mending or card.name not in OVER_ICONS:
        made_from["accelerator"] = hashlib.sha256(adapter_file(ACCELERATOR).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _own(wish: argparse.Namespace, loaded: LoadedCheckpoint, icons: Fold) -> Folder:
    """A folder of what mini draws from the icons' captions, drawn once for all styles."""
    told = json.dumps([loaded.info.sha256, dict(icons.describe())], sort_keys=True)
    folder = wish.work / f"own-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    pictures, index = folder / "pictures", folder / "pictures" / "metadata.jsonl"
    if not index.exists():  # written last
        prepare(icons, folder / "captions", loaded, Wish(size=loaded.info.native_size), place=choose(None))
        pictures.mkdir(exist_ok=True)
        own = Own(folder / "captions", "mini")
        lines: list[str] = []
        for number, record in enumerate(own.records(0, len(own))):
            Image.fromarray(record.pixels).save(pictures / f"{number:04}.png")
            lines.append(json.dumps({"file_name": f"{number:04}.png", "text": record.caption}) + "\n")
        index.write_text("".join(lines))
    return Folder(pictures)


def _tuned(wish: argparse.Namespace, card: Card, loaded: LoadedCheckpoint, beneath: Source, work: Path) -> Path:
    """The folder of a checkpoint that paints so."""
    trigger = f"{card.name.replace('-', ' ')} style" if card.name in OVER_ICONS else ""
    source = Restyled(beneath, teacher(card.teacher), trigger, seed=0)
    prepare(source, work / "set", loaded, Wish(size=loaded.info.native_size), place=choose(None))
    options: dict[str, object] = {"--data": work / "set", "--out": work / "run", "--updates": wish.updates}
    _train("base", {**options, "--batch": wish.batch}, SETTINGS)
    return work / "run" / "result"


def _train(task: str, options: Mapping[str, object], settings: Mapping[str, object]) -> None:
    """By the command, which goes on where it was interrupted."""
    command = [sys.executable, "-m", "laur", "train", task]
    command += [str(part) for option in options.items() for part in option]
    command += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _extracted(tuned: Path, loaded: LoadedCheckpoint) -> tuple[dict[str, LowRank], float]:
    """The change at RANK, and the part of its norm that is left behind."""
    deltas, loss = extract(*(_weights(one) for one in (load(str(tuned)), loaded)), rank=RANK)
    return {name: delta for name, delta in deltas.items() if isinstance(delta, LowRank)}, loss.error


def _mended(
    wish: argparse.Namespace, card: Card, loaded: LoadedCheckpoint, low: Mapping[str, LowRank], work: Path
) -> dict[str, LowRank]:
    """The same rank after learning from the fine-tune's predictions."""
    begin = work / "extracted.safetensors"
    compact.write(low, begin, {"modelspec.title": card.name})
    told: dict[str, object] = {
        "objective.rank": RANK,
        "objective.adapter": json.dumps(str(begin.resolve())),
        "objective.teacher": json.dumps(str((work / "run" / "result").resolve())),
    }
    options: dict[str, object] = {"--data": work / "set", "--out": work / "mended", "--updates": wish.mending}
    _train("style", {**options, "--batch": wish.batch}, {**MENDING, **told})
    (result,) = (work / "mended" / "result").glob("*.safetensors")
    deltas = LoraFile(result).deltas(layer_shapes(loaded.unet(), "unet"))
    return {name: delta for name, delta in deltas.items() if isinstance(delta, LowRank) and delta.up.any()}


def _compact(low: Mapping[str, LowRank], loaded: LoadedCheckpoint, target: Path, card: Card, key: str) -> None:
    """Write the adapter in 8 bits."""
    bare = {name.removeprefix("unet."): delta for name, delta in low.items()}
    metadata = export.adapter_metadata(card.name, bare, loaded, task="style", accelerates=False, trigger_words=())
    target.parent.mkdir(parents=True, exist_ok=True)
    compact.write(low, target, {**metadata, KEY: key, "modelspec.description": card.words})


def _weights(loaded: LoadedCheckpoint) -> dict[str, Tensor]:
    """Of the UNet's layers that an adapter may change, by canonical parameter name."""
    unet = loaded.unet()
    names = [name.removeprefix("unet.") for name in layer_shapes(unet, "unet")]
    return {f"unet.{name}.weight": unet.get_submodule(name).weight.detach() for name in names}


if __name__ == "__main__":
    main()
