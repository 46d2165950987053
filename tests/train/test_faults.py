"""What belongs to no picture and to no update: the system's faults, and settings that cannot be."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import tiny_config
from torch import nn

from laur.core.errors import NumericalError, OutputError, TrainingError
from laur.pipeline.device import Placement
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.train.data.encoder import LatentEncoder
from laur.train.data.picture import Skip
from laur.train.data.sources.folder import Folder
from laur.train.folder import RESULT, claimed
from laur.train.objectives import export
from laur.train.objectives.lora import Lora


def _picture(folder: Path, colour: int | None) -> Folder:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels if colour is None else np.full_like(pixels, colour)).save(folder / "a fox.png")
    return Folder(folder)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_a_fault_of_the_system_is_no_skipped_picture(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = next(iter(_picture(tmp_path, None).records(0, 1)))

    def fails(path: Path) -> bytes:
        raise OSError(number, "said", str(path))

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(OSError, match="said"):
        record.draw(64)


def test_a_file_that_cannot_be_read_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = next(iter(_picture(tmp_path, None).records(0, 1)))

    def fails(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "said", str(path))

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(Skip, match="said"):
        record.draw(64)


def test_blank_pictures_of_a_folder_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(Skip, match="blank"):
        next(iter(_picture(tmp_path, 250).records(0, 1))).draw(64)


def test_latents_are_never_encoded_in_float16_and_must_be_finite() -> None:
    loaded = load("mini")
    half = Placement(torch.device("cpu"), torch.float16, channels_last=True)
    encoder = LatentEncoder(loaded, half)
    assert next(encoder._vae.parameters()).dtype is torch.float32
    with torch.no_grad():
        next(encoder._vae.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(NumericalError, match="not finite"):
        encoder([np.zeros((64, 64, 3), np.uint8)])


def test_a_rank_below_one_is_told() -> None:
    with pytest.raises(TrainingError, match="rank 0"):
        Lora(nn.Sequential(nn.Linear(4, 4)), rank=0, alpha=None, targets=["0"])


@pytest.mark.parametrize("task", ["lcm-lora", "style"])
def test_an_lcm_is_no_base_of_adapters(task: str, mini_as_lcm: LoadedCheckpoint) -> None:
    from laur.train.config import configure
    from laur.train.objectives import TASKS

    config = configure(task, TASKS[task].options)
    with pytest.raises(TrainingError, match="lcf"):
        TASKS[task].build(config.objective, mini_as_lcm, torch.device("cpu"))


@pytest.fixture
def mini_as_lcm() -> LoadedCheckpoint:
    import dataclasses

    loaded = load("mini")
    info = dataclasses.replace(loaded.info, guidance_inside=True)
    loaded.info = info
    return loaded


def test_a_full_disk_under_the_result_is_told_in_one_line(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    errors = [
        SafetensorError("I/O error: No space left on device (os error 28)"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device")]),
    ]
    for error in errors:
        with (
            pytest.raises(OutputError, match="No space left on device; the last state is kept"),
            export._written(tmp_path / "result"),
        ):
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    config = tiny_config()
    with claimed(tmp_path, config, "auto"):
        pass
    left = tmp_path / f".{RESULT}.abcdef.tmp"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    with claimed(tmp_path, config, "auto"):
        assert not left.exists()
