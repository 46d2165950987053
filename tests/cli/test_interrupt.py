"""Ctrl-C keeps finished pictures whole and leaves no others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from laur.cli.console import interrupts_held

DEADLINE = 240.0
"""Seconds after which something hangs; no measure of speed."""


def test_an_interrupt_waits_for_the_block() -> None:
    finished = False
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        os.kill(os.getpid(), signal.SIGINT)
        finished = True
    assert finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_exception_passes_through_the_block() -> None:
    with pytest.raises(ValueError, match="mine"), interrupts_held():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_mid_run(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "laur.cli.main",
        "generate",
        "a red fox",
        "-n",
        "1000",
        "--steps",
        "1",
        "--out",
        "many/",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    try:
        began = time.monotonic()
        while len(list(tmp_path.glob("many/*.png"))) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - began < DEADLINE
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"laur: stopped; {len(out.splitlines())} of 1000 pictures finished" in err.splitlines()
    on_disk = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert on_disk == sorted(out.splitlines())
    assert 3 <= len(on_disk) < 1000
    for path in on_disk:
        with Image.open(tmp_path / path) as image:
            image.load()
