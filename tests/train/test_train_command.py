"""`laur train` as a user meets it: what it says, how it ends, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_command import assemble

import laur.train.run
from laur.cli.app import run
from laur.train.journal import read

SCRIPT = Path(__file__).with_name("tiny_command.py")
DEADLINE = 240.0
"""Seconds after which something hangs; no measure of speed."""
PLAIN = ("--device", "cpu", "--precision", "float32", "--batch", "8", "--set", "journal.tensorboard=false")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def begun(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), "train", "style", "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def test_from_beginning_to_end_to_the_path(tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said, told = ended(begun(out, *PLAIN, "--updates", "5"))
    assert code == 0
    assert said == f"{out}/result/weights.safetensors\n"
    assert re.search(r"update 5 of 5, loss [\d.]+, [\d.e+]+ pictures/s, 0:00:00 left", told)
    assert [line["update"] for line in read(out / "journal.jsonl")] == list(range(5))
    code, said, told = ended(begun(out, *PLAIN, "--updates", "5", "--seed", "4"))
    assert code == 2
    assert told.startswith(f"laur: {out} holds a run with seed = 0, not 4; give it the same settings to go on")
    assert told.count("\n") == 1
    code, said, told = ended(begun(out, "--resume", "--updates", "7", "--json"))
    assert code == 0
    assert '"updates": 7' in said
    assert "going on after update 5" in told
    assert [line["update"] for line in read(out / "journal.jsonl")] == list(range(7))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_saves_and_says_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "run"
    process = begun(out, *PLAIN, "--updates", "100000")
    began = time.monotonic()
    while sum(1 for _ in read(out / "journal.jsonl")) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < DEADLINE
        time.sleep(0.02)
    process.send_signal(number)
    found, said, told = ended(process)
    assert found == code
    assert said == ""
    updates = len(list(read(out / "journal.jsonl")))
    assert f"stopped after update {updates}; go on with: laur train style --out {out} --resume" in told
    assert [p.name for p in (out / "states").iterdir()] == [f"{updates:08d}"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "optimizer.lr=1"), "there is no setting optimizer; the nearest is optimiser"),
        (("--batch", "8", "--accumulate", "3"), "a batch of 8 cannot be split evenly over 3 slices"),
        (("--lr", "fast"), "'fast' is not a number"),
        (("--precision", "float16"), "precision is 'float16'; choose one of auto, float32, bfloat16"),
        (("--resume",), "holds no run to go on with"),
        (("--config", "none.toml"), "none.toml cannot be read: No such file"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.setattr(laur.train.run, "assemble", assemble)
    command = ["train", "style", "--out", str(tmp_path / "run"), "--device", "cpu", *options]
    assert run(command) == 2
    said, told = capfd.readouterr()
    assert said == ""
    assert told.startswith("laur: ")
    assert told.count("\n") == 1
    assert words in told


def test_all_settings_are_printed_with_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "style", "--out", str(tmp_path / "run"), "--print-config", "--lr", "0.25"]) == 0
    said = capfd.readouterr().out
    assert "lr = 0.25\n" in said
    assert "# Learning rate at its highest.\n" in said
    assert "[objective]" in said
    assert not (tmp_path / "run").exists()


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
"""Its `--cpu` starts one process, whatever the number; `--multi_gpu` starts two, here on the CPU."""


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_speak_with_one_voice(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    out = tmp_path / "run"
    launch = [sys.executable, "-m", *launcher]
    command = [*launch, str(SCRIPT), "train", "style", "--out", str(out), *PLAIN, "--updates", "4"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}/result/weights.safetensors\n"
    assert done.stderr.count("update 4 of 4") == 1
    assert [line["update"] for line in read(out / "journal.jsonl")] == list(range(4))
    odd = [*launch, str(SCRIPT), "train", "style", "--out", str(tmp_path / "odd"), *PLAIN, "--batch", "9"]
    refused = subprocess.run(odd, capture_output=True, text=True, env=ENVIRONMENT, timeout=DEADLINE, check=False)
    assert "a batch of 9 cannot be split evenly over 2 processes" in refused.stderr
