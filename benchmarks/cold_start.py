"""How long is it from `laur generate` in a fresh process to the first picture, and how much memory does it take?

The command is timed as a whole: interpreter, imports, weights, merging LCM-LoRA, four steps, decode, file. The
operating system's own account gives the peak memory.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import arguments, report


def once(folder: str) -> dict[str, float]:
    """One run of the command: wall seconds, peak resident bytes, and what the command itself says."""
    command = [sys.executable, "-m", "laur", "generate", "a red apple, fluent 3d", "--seed", "7", "--json"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(Path(folder) / "picture.png")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    assert process.returncode == 0, "laur generate failed"
    return {
        "wall_s": time.perf_counter() - start,
        "peak_bytes": usage.ru_maxrss * 1024,
        "said_s": said["seconds"],
    }


def main() -> None:
    """Measure and report."""
    found = arguments(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory() as folder:
        once(folder)  # expands the embedded model and fills the disk cache
        runs = [once(folder) for _ in range(found.repeats)]
    wall = [run["wall_s"] for run in runs]
    figures = {
        "cold_start_median_s": statistics.median(wall),
        "cold_start_min_s": min(wall),
        "cold_start_max_s": max(wall),
        "peak_memory_mib": max(run["peak_bytes"] for run in runs) / 2**20,
        "runs": len(runs),
    }
    report("cold_start", __doc__.splitlines()[0], figures, found.out)


if __name__ == "__main__":
    main()
