"""The loop over a real denoiser: recomputed activations, and sheets that leave the run as it is."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TinyFeed, TinyObjective, tiny_config

from helpers.tiny import tiny_folder
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.train.batch import Batch
from laur.train.config import SheetConfig
from laur.train.draws import Draws
from laur.train.journal import read
from laur.train.listener import Listener
from laur.train.loop import Trainer
from laur.train.objective import Loss
from laur.train.sheets import Sheets


class DenoiserObjective(TinyObjective):
    """The noise at one timestep, without a text."""

    def __init__(self, loaded: LoadedCheckpoint) -> None:
        super().__init__()
        self.model = copy.deepcopy(loaded.unet())
        self.model.requires_grad_(False)
        self.model.get_submodule("up_blocks").requires_grad_(True)

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        noise = draws.normal("noise", batch.latents.shape[1:])
        context = torch.zeros(len(batch), 7, 64)
        t = torch.full((len(batch),), 300)
        guess = self.model(batch.latents + noise, t, encoder_hidden_states=context).sample
        return Loss((guess - noise).float().square().mean())

    def updated(self, update: int) -> None:
        del update

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        assert state == {}


class Heard(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    return load(str(tiny_folder("sd1", tmp_path_factory.mktemp("tiny") / "sd1")))


def losses(loaded: LoadedCheckpoint, folder: Path, *, draw: bool = False, **settings: Any) -> list[float]:
    folder.mkdir()
    config = tiny_config(updates=3, batch=2, save={"updates": 0}, **settings)
    objective, heard = DenoiserObjective(loaded), Heard()
    sheets = None
    if draw:
        config = dataclasses.replace(config, sheet=SheetConfig(updates=2))
        sheets = Sheets(
            "style",
            SheetConfig(seeds=(1,), steps=2),
            folder,
            objective=objective,
            loaded=loaded,
            prompts=("a fox",),
            size=(64, 64),
            device=torch.device("cpu"),
            listener=heard,
        )
    Trainer(objective, TinyFeed(0, 2), config, folder, sheets=sheets, listener=heard).run()
    drawn = [path.name for path in (folder / "sheets").glob("*")]
    assert drawn == (["00000002.png"] if draw else [])
    assert sum(text.startswith("sheet after update 2") for text in heard.said) == draw
    return [line["loss"] for line in read(folder / "journal.jsonl")]


def test_neither_sheets_nor_recomputing_change_a_run(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    plain = losses(loaded, tmp_path / "plain")
    assert plain[-1] < plain[0]
    assert losses(loaded, tmp_path / "drawn", draw=True, journal={"tensorboard": True}) == plain
    assert losses(loaded, tmp_path / "recomputed", checkpointing=True) == pytest.approx(plain, rel=1e-6)


def test_low_precision_stays_near(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    plain = losses(loaded, tmp_path / "plain")
    low = losses(loaded, tmp_path / "low", precision="bfloat16")
    assert low != plain
    assert low == pytest.approx(plain, rel=0.05)


def test_all_that_is_differentiated_is_recomputed(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    objective = DenoiserObjective(loaded)
    second = DenoiserObjective(loaded).model
    objective.also_differentiated = (second,)  # type: ignore[attr-defined]
    Trainer(objective, TinyFeed(0, 2), tiny_config(updates=1, batch=2, checkpointing=True), tmp_path)
    for network in (objective.model, second):
        able = [m for m in network.modules() if hasattr(m, "gradient_checkpointing")]
        assert able
        assert all(m.gradient_checkpointing for m in able)


def test_recomputing_calls_each_block_twice(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    calls: list[int] = []
    for wanted in (False, True):
        objective = DenoiserObjective(loaded)
        seen: list[None] = []
        block = objective.model.get_submodule("up_blocks.1.resnets.0")
        block.register_forward_pre_hook(lambda *_, seen=seen: seen.append(None))
        folder = tmp_path / str(wanted)
        folder.mkdir()
        config = tiny_config(updates=1, batch=2, checkpointing=wanted)
        Trainer(objective, TinyFeed(0, 2), config, folder).run()
        calls.append(len(seen))
    assert calls == [1, 2]
