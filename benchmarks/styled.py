"""Pictures in a style, for benchmarks that learn one: to learn from, and others to measure against."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from laur.pipeline.device import choose
from laur.pipeline.loading.load import load
from laur.style.cards import shipped
from laur.style.teachers import teacher
from laur.train.data.maker import Wish
from laur.train.data.prepare import prepare
from laur.train.data.reader import TrainingSet
from laur.train.data.sources.fold import Fold
from laur.train.data.sources.pack import Pack
from laur.train.data.sources.restyled import Restyled

LAUR = (sys.executable, "-m", "laur")
CONTENT = ("fluent 3d", "noto", "twemoji", "fluent flat", "emojione", "fluent gradient")
"""Styles of the pack whose pictures are painted: coloured and filled."""


def styled(pack: Path, style: str, work: Path, *, learned: int, measured: int) -> tuple[Path, Path, str]:
    """Two prepared sets in the style, the second of held-out concepts with its pixels; and the words that call it."""
    loaded = load("mini")
    (card,) = [card for card in shipped() if card.name == style]
    trigger = f"{style.replace('-', ' ')} style"
    folders = work / f"{style}-learned-{learned}", work / f"{style}-measured-{measured}"
    for folder, count, held in zip(folders, (learned, measured), (False, True), strict=True):
        source = Restyled(
            Fold(Pack(pack, styles=CONTENT), count, held_out=held), teacher(card.teacher), trigger, seed=0
        )
        prepare(source, folder, loaded, Wish(size=loaded.info.native_size, pixels=held), place=choose(None))
    return *folders, trigger


def pixels(data: TrainingSet) -> np.ndarray:
    """(n, H, W, 3) uint8 of a set that keeps them."""
    kept = data.pixels(np.arange(len(data)))
    return ((kept + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def learn(task: str, data: Path, out: Path, *, minutes: float, settings: dict[str, object]) -> Path:
    """One training by the command line; what came out."""
    command = [*LAUR, "train", task, "--data", str(data), "--out", str(out), "--minutes", str(minutes)]
    for key, value in {"sheet.updates": 0, "journal.tensorboard": "false", **settings}.items():
        command += ["--set", f"{key}={value}"]
    subprocess.run(command, check=True)
    result = out / "result"
    return next(result.glob("*.safetensors"), result)
