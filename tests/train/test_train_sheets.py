"""Sample sheets: drawn with the averaged weights, by the Engine, without touching the run."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

from helpers.tiny import tiny_folder
from laur.pipeline.engine import Engine
from laur.pipeline.loading.load import load
from laur.train import sheets as sheets_module
from laur.train.config import SheetConfig
from laur.train.listener import Listener
from laur.train.sheets import Reconstructions, Sheets


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("tiny") / "sd1")


def sheets(checkpoint: Path, folder: Path, model: Any, listener: Listener | None = None, **settings: Any) -> Sheets:
    return Sheets(
        "lcm-lora",
        SheetConfig(seeds=(3, 4), **settings),
        folder,
        objective=SimpleNamespace(model=model),  # pyright: ignore[reportArgumentType]
        loaded=load(str(checkpoint)),
        prompts=("a fox", "a (castle)"),
        size=(72, 64),
        device=torch.device("cpu"),
        listener=listener or Listener(),
    )


def test_a_sheet_shows_the_average_and_leaves_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    model = copy.deepcopy(load(str(checkpoint)).unet())
    before = {name: p.clone() for name, p in model.named_parameters()}
    random = torch.get_rng_state()
    drawn = sheets(checkpoint, tmp_path, model)
    same = drawn.draw(5, {})
    other = drawn.draw(6, {"conv_out.weight": -model.conv_out.weight.detach()})
    assert same == tmp_path / "sheets" / "00000005.png"
    assert other is not None
    with Image.open(same) as a, Image.open(other) as b:
        assert ImageChops.difference(a, b).getbbox() is not None
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), random)
    again = sheets(checkpoint, tmp_path / "again", model).draw(5, {})
    assert again is not None
    assert again.read_bytes() == same.read_bytes()


def test_pictures_are_those_of_the_engine(checkpoint: Path, tmp_path: Path) -> None:
    from laur.core.recipe import Recipe

    drawn = sheets(checkpoint, tmp_path, load(str(checkpoint)).unet())._pictures({})
    recipe = Recipe(prompt="a (castle)", seed=4, adapters=(), sampler="lcm", steps=4, guidance=1.0, width=72, height=64)
    plain = Engine(str(checkpoint), device="cpu").run([recipe])[0]
    assert drawn[3].size == plain.size
    difference = ImageChops.difference(drawn[3], plain).convert("L")
    assert difference.getextrema()[1] <= 24  # the Engine runs a faster form of the network here


def test_a_sheet_that_cannot_be_drawn_is_a_warning(checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    listener = Listener()
    listener.warn = said.append  # pyright: ignore[reportAttributeAccessIssue]
    model = copy.deepcopy(load(str(checkpoint)).unet())
    drawn = sheets(checkpoint, tmp_path, model, listener)
    assert drawn.draw(7, {"conv_out.weight": model.conv_out.weight.detach() * float("nan")}) is None
    assert "no sheet after update 7" in said[0]
    (tmp_path / "sheets").write_text("a file")
    assert drawn.draw(8, {}) is None
    assert "no sheet after update 8" in said[1]


@pytest.mark.parametrize("fault", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_memory_that_runs_out_in_a_sheet_is_a_warning(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    listener = Listener()
    listener.warn = said.append  # pyright: ignore[reportAttributeAccessIssue]
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    objective: Any = SimpleNamespace(model=torch.nn.Linear(1, 1))
    shown = Reconstructions(objective, pictures, tmp_path, device=torch.device("cpu"), listener=listener)

    def fails(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
        assert len(pictures) == 1  # one whole picture at a time
        raise fault

    monkeypatch.setattr(sheets_module, "reconstructed", fails)
    assert shown.draw(3, {}) is None
    assert said == ["no sheet after update 3: memory ran out; set sheet.updates=0 to draw none"]


def test_an_autoencoder_shows_pictures_there_and_back(checkpoint: Path, tmp_path: Path) -> None:
    vae = load(str(checkpoint)).vae()
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    objective: Any = SimpleNamespace(model=vae)
    shown = Reconstructions(objective, pictures, tmp_path, device=torch.device("cpu"), listener=Listener())
    path = shown.draw(3, {})
    assert path is not None
    with Image.open(path) as sheet:
        corner = [x for x in range(sheet.width) if sheet.getpixel((x, sheet.height - 30)) != (255, 255, 255)]
    assert corner, "no second row"
