"""Killed at any moment, split over processes: the same run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from laur.train.journal import read

SCRIPT = Path(__file__).with_name("tiny_training.py")
UPDATES = 60
DEADLINE = 240.0
"""Seconds after which something hangs; no measure of speed."""
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
"""A process that aborts in C++ says where Python stood."""


def begun(folder: Path, optimiser: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(folder), str(UPDATES), optimiser]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ALONE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finished(folder: Path, optimiser: str) -> dict[str, torch.Tensor]:
    process = begun(folder, optimiser)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    return load_file(folder / "result" / "weights.safetensors")


def test_killed_and_gone_on_ends_at_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    expected = finished(whole, "muon")
    seconds = time.monotonic() - began
    chance = random.Random(time.time_ns())
    for _ in range(2):
        process = begun(killed, "muon")
        time.sleep(chance.uniform(0, 0.2 * seconds))
        process.kill()
        process.communicate()
    found = finished(killed, "muon")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    losses = [[line["loss"] for line in read(folder / "journal.jsonl")] for folder in (whole, killed)]
    assert len(losses[0]) == UPDATES
    assert losses[0] == losses[1]


def test_two_processes_learn_as_one_does(tmp_path: Path) -> None:
    finished(tmp_path / "one", "adamw")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(tmp_path / "two"), str(UPDATES), "adamw"],
        capture_output=True,
        text=True,
        env=ALONE,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (list(read(tmp_path / name / "journal.jsonl")) for name in ("one", "two"))
    assert [line["update"] for line in two] == list(range(UPDATES))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-4)
    norms = [[line["gradient_norm"] for line in lines] for lines in (one, two)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
