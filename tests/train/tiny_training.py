"""A run small enough to be killed often: three layers learn a fixed map, with a target that follows them.

    python tiny_training.py FOLDER [UPDATES] [OPTIMISER]

trains in FOLDER, from its last state if there is one, and writes the averaged weights to FOLDER/result.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from laur.train.batch import Batch
from laur.train.config import RunConfig, configure
from laur.train.draws import Draws
from laur.train.loop import Trainer
from laur.train.objective import Loss
from laur.train.processes import start

CHANNELS, SIDE, SET = 4, 8, 40


class TinyFeed:
    """Forty pictures of noise, by `update` and place."""

    def __init__(self, seed: int, batch: int) -> None:
        self.seed = seed
        self.size = batch
        generator = np.random.default_rng(5)
        self.pictures = torch.from_numpy(generator.standard_normal((SET, CHANNELS, SIDE, SIDE), dtype=np.float32))

    def batch(self, update: int, rows: slice) -> tuple[Batch, Draws]:
        keys = (update * self.size + torch.arange(self.size))[rows]
        places = keys % SET
        batch = Batch(update, keys, self.pictures[places], None, names=tuple(f"picture-{int(i)}" for i in places))
        return batch, Draws(self.seed, keys)


class TinyObjective:
    """Towards the noise-free picture and a following target's guess."""

    def __init__(self, *, width: int = 16, poison: int | None = None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.model: nn.Module = nn.Sequential(
                nn.Conv2d(CHANNELS, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, CHANNELS, 3, padding=1)
            )
        self.target = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.poison = poison
        self.seen: list[int] = []

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        noise = draws.normal("noise", batch.latents.shape[1:])
        guess = self.model(batch.latents + 0.3 * noise)
        plain = (guess - batch.latents).square().mean()
        tie = sum((p - t).square().mean() for p, t in zip(self.model.parameters(), self.target, strict=True))
        total = plain + 0.1 * tie
        if batch.update == self.poison:
            total = total * float("nan")
        return Loss(total, {"plain": plain.detach(), "tie": float(tie.detach())})

    @torch.no_grad()
    def updated(self, update: int) -> None:
        self.seen.append(update)
        torch._foreach_lerp_(self.target, list(self.model.parameters()), 0.1)

    def state_dict(self) -> dict[str, Any]:
        return {"target": self.target, "note": "ünï", "numbers": [1, 2.5, None, True]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert state["note"] == "ünï"
        for mine, saved in zip(self.target, state["target"], strict=True):
            mine.copy_(saved)

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "weights.safetensors"
        save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, path)
        return path


def tiny_config(**settings: Any) -> RunConfig:
    """Five updates in float32 unless said otherwise."""
    plain: dict[str, Any] = {
        "updates": 5,
        "batch": 8,
        "precision": "float32",
        "device": "cpu",
        "average": 0.9,
        "optimiser": {"lr": 1e-2, "warmup": 2},
        "save": {"updates": 1},
        "journal": {"tensorboard": False},
    }
    return configure("style", None, plain, settings)


def tiny_trainer(folder: Path, config: RunConfig | None = None, **rest: Any) -> Trainer:
    """A trainer in `folder`."""
    config = config or tiny_config()
    objective = rest.pop("objective", None) or TinyObjective()
    return Trainer(objective, TinyFeed(config.seed, config.batch), config, folder, **rest)


def main() -> None:
    """See the module's words."""
    folder, updates, name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    folder.mkdir(parents=True, exist_ok=True)
    processes, _ = start("cpu")
    config = tiny_config(updates=updates, optimiser={"name": name, "lr": 1e-2, "warmup": 2})
    trainer = tiny_trainer(folder, config, processes=processes, objective=TinyObjective(width=64))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    trainer.run()
    trainer.export()
    processes.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
