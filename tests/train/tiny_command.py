"""`laur` with the tiny objective in place of the real ones: python tiny_command.py train style --out RUN …"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from tiny_training import TinyFeed, TinyObjective

import laur.train.run
from laur.cli.main import main
from laur.train.batch import Batch
from laur.train.config import RunConfig
from laur.train.draws import Draws
from laur.train.loop import Trainer


class SlowFeed(TinyFeed):
    """Leaves time to press Ctrl-C."""

    def batch(self, update: int, rows: slice) -> tuple[Batch, Draws]:
        time.sleep(0.02)
        return super().batch(update, rows)


def assemble(config: RunConfig, folder: Path, device: torch.device, **rest: Any) -> Trainer:
    """What `laur.train.run.assemble` gives, but tiny."""
    del device
    return Trainer(TinyObjective(), SlowFeed(config.seed, config.batch), config, folder, **rest)


if __name__ == "__main__":
    torch.set_num_threads(1)
    laur.train.run.assemble = assemble
    main()
