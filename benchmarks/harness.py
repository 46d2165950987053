"""What every benchmark here shares: interleaved runs, medians, and a JSON file that names machine and commit.

Machines are noisy, so candidates take turns (A B C A B C …) and are compared by the ratio within each turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).resolve().parents[1]


def arguments(question: str, *, repeats: int = 7) -> argparse.Namespace:
    """--repeats and --out, the same for every benchmark."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--repeats", type=int, default=repeats, help="counted runs of each candidate")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="one run each, to see that it works")
    found = parser.parse_args()
    if found.quick:
        found.repeats = 1
    return found


def interleaved(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, after one warm-up each; candidates take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            if turn:
                seconds[name].append(elapsed)
    return seconds


def summary(seconds: Mapping[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Median, least and most, and the median over turns of baseline / candidate."""
    reference = seconds[baseline]
    return {
        name: {
            "median_s": statistics.median(runs),
            "min_s": min(runs),
            "max_s": max(runs),
            f"times_faster_than_{baseline}": statistics.median(
                base / run for base, run in zip(reference, runs, strict=True)
            ),
        }
        for name, runs in seconds.items()
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    """The commit measured, with a + where the tree had changes."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def report(name: str, question: str, figures: Mapping[str, Any], out: Path | None = None) -> None:
    """Print the figures and write them to benchmarks/results/NAME.json."""
    record = {"question": question, "commit": commit(), "machine": machine(), "figures": figures}
    text = json.dumps(record, indent=2)
    print(text)
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
