"""A `laur serve` process to measure, its memory and file handles, and the load generator beside it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil

HERE = Path(__file__).parent
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """One request, see `load_generator.Sample`."""

    due: float
    seconds: float
    status: int

    @property
    def ended(self) -> float:
        """Seconds from the beginning to the answer."""
        return self.due + self.seconds


class Process:
    """A server in a process of its own."""

    def __init__(self, command: Sequence[str], log: Path, *, ready: str) -> None:
        """`command` may hold {port}; `ready` is the path that answers 200 once it can work."""
        self.port = _free_port()
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._ready = ready

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.watched = psutil.Process(self._process.pid)
        while not self._is_ready():
            if self._process.poll() is not None:
                raise SystemExit(f"the server ended: {self.said()[-2000:]}")
            time.sleep(0.2)
        return self

    def __exit__(self, *reason: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def memory(self) -> float:
        """MiB resident."""
        return self.watched.memory_info().rss / MIB

    @property
    def processor_seconds(self) -> float:
        """Used so far, in user and system mode."""
        times = self.watched.cpu_times()
        return times.user + times.system

    @property
    def handles(self) -> int:
        """Open file descriptors."""
        return self.watched.num_fds()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + self._ready, timeout=2) as answer:
                return answer.status == 200
        except OSError:  # HTTPError and URLError are both
            return False


def laur_serve(folder: Path, *options: str) -> Process:
    """`laur serve` on a free port, with its results in `folder`."""
    command = [sys.executable, "-m", "laur", "serve", "--port", "{port}", "--store", str(folder / "results"), *options]
    return Process(command, folder / "serve.log", ready="/health/ready")


def load(url: str, *streams: dict[str, Any]) -> list[list[Sample]]:
    """Run the generator; the samples of each stream."""
    wish = json.dumps({"url": url, "streams": streams})
    command = [sys.executable, str(HERE / "load_generator.py"), wish]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[Sample(**values) for values in samples] for samples in json.loads(done.stdout)]


class Watch:
    """Memory and handles of a process, twice a second while the block runs."""

    def __init__(self, process: Process) -> None:
        self._process, self._stop = process, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.memory: list[float] = []
        self.handles: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            self.memory.append(self._process.memory)
            self.handles.append(self._process.handles)


def percentiles(samples: Sequence[Sample]) -> dict[str, float]:
    """p50, p95, p99 in seconds of what was answered with a picture, and how many that were."""
    seconds = [sample.seconds for sample in samples if sample.status == 200]
    if not seconds:
        return {"pictures": 0}
    p50, p95, p99 = (round(float(value), 4) for value in np.percentile(seconds, [50, 95, 99]))
    return {"pictures": len(seconds), "p50_s": p50, "p95_s": p95, "p99_s": p99}


def throughput(samples: Sequence[Sample], began: float, ended: float) -> float:
    """Pictures a second between two times, of a closed loop that was under way before and went on after."""
    count = sum(sample.status == 200 and began <= sample.ended < ended for sample in samples)
    return count / (ended - began)


def statuses(samples: Sequence[Sample]) -> dict[str, int]:
    """How often each was answered."""
    found: dict[str, int] = {}
    for sample in samples:
        found[str(sample.status)] = found.get(str(sample.status), 0) + 1
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
