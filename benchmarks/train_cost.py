"""What an update of each task of `laur train` takes: seconds, pictures a second, and the process's peak memory.

Each task runs a few updates through the command line on a set of drawn shapes, with the task's own batch unless
--batch says otherwise. `lcm` stands beside `lcm-lora`: what does it cost to train every weight? Another model than
mini is named by --model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from harness import report
from train_resume import LAUR, pictures

TASKS = ("base", "vae", "lcm", "lcm-lora", "lcf", "style")
WARM = 1
"""First updates that do not count."""


def measure(task: str, data: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A few updates."""
    command = [*LAUR, "train", task, "--data", str(data), "--out", str(out), "--updates", str(options.updates + WARM)]
    command += ["--model", options.model, "--set", "sheet.updates=0", "--set", "journal.tensorboard=false"]
    if options.batch:
        command += ["--batch", str(options.batch)]
    if options.checkpointing:
        command += ["--checkpointing"]
    subprocess.run(command, check=True, env={**os.environ, "CUDA_MODULE_LOADING": "LAZY"})
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    counted = lines[WARM:]
    speed = median(line["pictures_per_second"] for line in counted)
    seconds = [later["seconds"] - sooner["seconds"] for sooner, later in zip(lines[WARM - 1 :], counted, strict=False)]
    return {
        "seconds_per_update": round(median(seconds), 3),
        "pictures_per_second": round(speed, 3),
        "peak_memory_mib": round(max(line["peak_memory_mib"] for line in lines)),
    }


def main() -> None:
    """Measure and report."""
    question = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--model", default="mini", help="name or folder")
    parser.add_argument("--updates", type=int, default=4, help="that count")
    parser.add_argument("--batch", type=int, default=0, help="the task's own where not given")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--name", default="train_cost", help="of the result's file")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "set"
        source = pictures(folder / "shapes")
        prepare = ["data", "prepare", "folder", str(source), "--out", str(data), "--model", options.model, "--pixels"]
        subprocess.run([*LAUR, *prepare, "--size", "256"], check=True)
        found = {task: measure(task, data, folder / task, options) for task in options.tasks}
    settings = {"model": options.model, "batch": options.batch or "the task's own", "size": 256}
    report(options.name, question, {**settings, "checkpointing": options.checkpointing, "tasks": found}, options.out)


if __name__ == "__main__":
    main()
