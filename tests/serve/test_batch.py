"""`laur batch`: each picture once, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny import tiny_folder
from laur.cli.app import run

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("checkpoint") / "sd1")


def recipes(path: Path, count: int, **more: Any) -> Path:
    plain = {"width": 64, "height": 64, "steps": 2, "sampler": "ddim", "guidance": 1.0}
    path.write_text(
        "".join(json.dumps({"prompt": f"egg {i}", "seed": i, **plain, **more}) + "\n" for i in range(count))
    )
    return path


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_each_once_and_only_what_is_missing(checkpoint: Path, tmp_path: Path, capfd: Captured) -> None:
    wishes = recipes(tmp_path / "r.jsonl", 5)
    command = ["batch", str(wishes), "-o", str(tmp_path / "out"), "-m", str(checkpoint), "--device", "cpu", "--json"]
    assert run(command) == 0
    assert json.loads(capfd.readouterr().out)["drawn"] == 5
    before = pictures(tmp_path / "out")
    assert len(before) == 5
    gone = list(before)[2]
    (tmp_path / "out" / gone).unlink()
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert run(command) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["drawn"], told["there"]) == (1, 4)
    after = pictures(tmp_path / "out")
    assert after == before  # also that a picture is the same in other company
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())


def test_a_bad_line_stops_no_other(checkpoint: Path, tmp_path: Path, capfd: Captured) -> None:
    wishes = recipes(tmp_path / "r.jsonl", 2)
    lines = wishes.read_text().splitlines()
    bad = ["{", "[1]", '{"seed": 1}', '{"prompt": "x", "name": "../up"}', '{"prompt": "x", "adapters": ["nowhere"]}']
    wishes.write_text("\n".join([lines[0], *bad, "", lines[1]]))
    command = ["batch", str(wishes), "-o", str(tmp_path / "out"), "-m", str(checkpoint), "--device", "cpu"]
    assert run(command) == 1
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert {failure["line"] for failure in failures} == {2, 3, 4, 5, 6}
    assert len(pictures(tmp_path / "out")) == 2
    assert "5 of 7 recipes failed" in capfd.readouterr().err
    wishes.write_text("\n".join(lines))
    assert run(command) == 0
    assert not (tmp_path / "out" / "failures.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot read"), ("", "holds no recipes"), ("\n\n", "holds no recipes")]
)
def test_files_that_are_none(content: str | None, words: str, tmp_path: Path, capfd: Captured) -> None:
    path = tmp_path / "r.jsonl"
    if content is not None:
        path.write_text(content)
    assert run(["batch", str(path), "-o", str(tmp_path / "out")]) == 2
    assert words in capfd.readouterr().err


def test_a_folder_has_one_batch_at_a_time(checkpoint: Path, tmp_path: Path, capfd: Captured) -> None:
    from laur.serve.batch.folder import Folder

    wishes = recipes(tmp_path / "r.jsonl", 1)
    with Folder(tmp_path / "out"):
        assert run(["batch", str(wishes), "-o", str(tmp_path / "out"), "-m", str(checkpoint)]) != 0
    assert "another batch writes to" in capfd.readouterr().err


def test_killed_and_gone_on(checkpoint: Path, tmp_path: Path) -> None:
    wishes = recipes(tmp_path / "r.jsonl", 30, steps=8)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "laur", "batch", str(wishes), "-o", str(out), "-m", str(checkpoint)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--device", "cpu"], env=environment, stderr=subprocess.DEVNULL)
    while len(pictures(out)) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(pictures(out))
    assert 3 <= there < 30
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert (told["there"], told["drawn"]) == (there, 30 - there)
    assert len(pictures(out)) == 30
    assert not list(out.glob(".*.tmp"))
