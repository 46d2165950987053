"""Each family of checkpoints through the tasks that need most of it, from pictures to a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_train_tasks import outcome
from tiny_set import tiny_set

from helpers.tiny import tiny_folder, tiny_single_file
from laur.optimize.lora_file import LoraFile


@pytest.mark.parametrize("family", ["sd2", "sdxl", "ssd-1b"])
def test_distilled_and_styled(family: str, tmp_path: Path) -> None:
    checkpoint = tiny_folder(family, tmp_path / family)
    data = tiny_set(tmp_path / "set", checkpoint)
    for task in ("lcm-lora", "style"):
        result = outcome(task, tmp_path / task, checkpoint, data, "--set", "objective.rank=4")
        assert LoraFile(result).recommends.accelerates == (task == "lcm-lora")


def test_a_whole_lcm_of_sdxl(tmp_path: Path) -> None:
    checkpoint = tiny_folder("sdxl", tmp_path / "sdxl")
    data = tiny_set(tmp_path / "set", checkpoint)
    result = outcome("lcm", tmp_path / "run", checkpoint, data, "--checkpointing", "--accumulate", "2")
    assert (result / "text_encoder_2").is_dir()
    assert (result / "unet" / "config.json").read_text().count('"time_cond_proj_dim": 256') == 1


def test_from_a_single_file(tmp_path: Path) -> None:
    checkpoint = tiny_single_file("sd1", tmp_path / "model.safetensors")
    data = tiny_set(tmp_path / "set", checkpoint)
    result = outcome("base", tmp_path / "run", checkpoint, data)
    assert (result / "model_index.json").is_file()
    assert (result / "scheduler").is_dir()
