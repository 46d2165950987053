"""What does a server add to the Engine, and how long do people wait when many ask?

`laur serve` on loopback with mini at 128x128, a load generator in a process of its own, and in turn with them the same
Engine alone in a process that keeps it full. In one run:

- saturation: pictures a second with twice as many clients as fill the batch, as a share of the Engine alone;
- latency: p50, p95 and p99 against offered load, Poisson arrivals, from a tenth to 1.1 of the Engine's throughput;
- overload: three times what can be drawn, from several tenants; refusals, memory, and the p99 of what was accepted;
- fairness: the latency of one tenant that asks for little, alone and while another floods.

The Engine alone makes pixels; the server also writes PNG files with their recipes, stores them and sends them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from harness import ROOT, report
from load_generator import SUBJECTS
from served import Process, Sample, Watch, laur_serve, load, percentiles, statuses, throughput

SHARES = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
"""Offered loads, of the Engine's throughput."""
SETTLE = 3.0
"""Seconds at the beginning and end of a closed loop that do not count."""


# -------------------------------------------------------------- the Engine alone


def draw_alone(size: int) -> None:
    """For each number of seconds on standard input, draw as fast as the Engine can.

    Prints pictures a second, and seconds of processor time a picture.
    """
    from laur.core.recipe import Recipe
    from laur.pipeline.events import Done
    from laur.serve.start import Cap, Setup, open_engine
    from laur.serve.worker.names import Names

    cap = Cap()
    engine = open_engine(Setup(), cap, Names())
    rows, numbers = cap((size // 8) ** 2), itertools.count()
    print(json.dumps({"rows": rows, "engine": repr(engine)}), flush=True)

    def submit() -> None:
        number = next(numbers)
        prompt = f"a {SUBJECTS[number % len(SUBJECTS)]}, number {number}"
        resolved = engine.resolve(Recipe(prompt=prompt, seed=number, width=size, height=size))
        engine.submit(resolved.plan, resolved.recipe)

    for _ in range(rows + max(1, rows // 4)):
        submit()
    for line in sys.stdin:
        seconds, done, began, used = float(line), 0, time.perf_counter(), time.process_time()
        while (took := time.perf_counter() - began) < seconds:
            for event in engine.step():
                if isinstance(event, Done):
                    done += 1
                    submit()
        used = time.process_time() - used
        print(json.dumps([done / took, used / max(1, done)]), flush=True)


class Alone:
    """That, as a process."""

    def __init__(self, size: int) -> None:
        command = [sys.executable, __file__, "--size", str(size), "--engine"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        about = json.loads(self._read())
        self.rows: int = about["rows"]
        self.engine: str = about["engine"]
        self.cost = 0.0

    def draw(self, seconds: float) -> float:
        """Pictures a second; `cost` then has the processor's seconds for each."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        speed, self.cost = json.loads(self._read())
        return speed

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the process of the Engine alone ended")
        return line


# ------------------------------------------------------------------ experiments


class Bench:
    """One server and the Engine alone, measured in turn."""

    def __init__(self, server: Process, alone: Alone, args: argparse.Namespace) -> None:
        self.server, self.alone, self.args = server, alone, args
        self._seeds = itertools.count(1)

    def settle(self) -> None:
        """Wait until nothing is left of what went before."""
        while True:
            with urllib.request.urlopen(f"{self.server.url}/v1/queue") as answer:
                state = json.load(answer)
            if not state["waiting"] and not state["running"]:
                time.sleep(1.0)
                return
            time.sleep(0.2)

    def stream(self, **fields: Any) -> dict[str, Any]:
        """A stream of requests for pictures that were not drawn before."""
        size = f"{self.args.size}x{self.args.size}"
        return {"seed": next(self._seeds), "body": {"size": size}, **fields}

    def saturation(self) -> dict[str, Any]:
        """Pictures a second with and without a server around the Engine, in turn."""
        seconds, clients = self.args.seconds, max(4, 2 * self.alone.rows)
        self.alone.draw(2.0)
        served: list[float] = []
        alone: list[float] = [self.alone.draw(seconds)]
        costs: list[float] = []
        for _ in range(self.args.turns):
            used = self.server.processor_seconds
            [samples] = load(self.server.url, self.stream(clients=clients, seconds=seconds + 2 * SETTLE))
            costs.append((self.server.processor_seconds - used) / max(1, len(samples)))
            served.append(throughput(samples, SETTLE, SETTLE + seconds))
            alone.append(self.alone.draw(seconds))
        beside = [(before + after) / 2 for before, after in itertools.pairwise(alone)]
        return {
            "clients": clients,
            "engine_alone_pictures_per_s": round(statistics.median(alone), 3),
            "served_pictures_per_s": round(statistics.median(served), 3),
            "share_of_engine_alone": round(statistics.median(map(_ratio, served, beside)), 4),
            "processor_s_per_picture": {"engine_alone": round(self.alone.cost, 4), "served": round(min(costs), 4)},
            "each_turn": [round(_ratio(*pair), 4) for pair in zip(served, beside, strict=True)],
        }

    def latency(self, most: float) -> list[dict[str, Any]]:
        """Percentiles for each offered load."""
        rows: list[dict[str, Any]] = []
        for share in SHARES:
            self.settle()
            [samples] = load(self.server.url, self.stream(rate=share * most, seconds=self.args.seconds))
            found = {"offered_share": share, "offered_per_s": round(share * most, 3)}
            rows.append({**found, **percentiles(samples), "answers": statuses(samples)})
        return rows

    def overload(self, most: float) -> dict[str, Any]:
        """Three times what can be drawn, from three tenants.

        The p99 is held against a full queue's time at the speed that the Engine alone has before and after.
        """
        streams = [self.stream(rate=most, seconds=3 * self.args.seconds, tenant=f"tenant{n}") for n in range(3)]
        self.settle()
        before = self.alone.draw(self.args.seconds)
        with Watch(self.server) as watch:
            samples = [sample for found in load(self.server.url, *streams) for sample in found]
        third = max(1, len(watch.memory) // 3)
        speed = throughput(samples, SETTLE, 3 * self.args.seconds)
        self.settle()
        alone = (before + self.alone.draw(self.args.seconds)) / 2
        bound = (1.25 * self.args.limit + 1.25 * self.alone.rows) / alone
        found = percentiles(samples)
        return {
            "offered_per_s": round(3 * most, 3),
            "engine_alone_pictures_per_s": round(alone, 3),
            "served_pictures_per_s": round(speed, 3),
            "queue_limit": self.args.limit,
            **found,
            "answers": statuses(samples),
            "bound_s": round(bound, 2),
            "p99_within_bound": found.get("p99_s", 0.0) <= bound,
            "memory_mib": {
                "second_third": _mean(watch.memory[third : 2 * third]),
                "last": _mean(watch.memory[-third:]),
            },
            "handles": {"most": max(watch.handles), "after": self.server.handles},
        }

    def fairness(self, most: float) -> dict[str, Any]:
        """One who asks for a quarter of what can be drawn, at the same moments alone and while another sends three
        times that, in turn."""
        seconds = 2 * self.args.seconds
        alone: list[Sample] = []
        beside: list[Sample] = []
        flooding: list[Sample] = []
        ratios: list[float] = []
        for turn in range(max(1, 3 * self.args.turns // 4)):
            quiet = {"rate": 0.25 * most, "seconds": seconds, "tenant": "quiet", "arrivals": turn}
            self.settle()
            [before] = load(self.server.url, self.stream(**quiet))
            self.settle()
            flood = self.stream(rate=3 * most, seconds=seconds, tenant="flood")
            after, flooded = load(self.server.url, self.stream(**quiet), flood)
            alone, beside, flooding = alone + before, beside + after, flooding + flooded
            ratios.append(percentiles(after)["p95_s"] / percentiles(before)["p95_s"])
        before, after = percentiles(alone), percentiles(beside)
        return {
            "quiet_alone": before,
            "quiet_beside_flood": {**after, "answers": statuses(beside)},
            "flood": {**percentiles(flooding), "answers": statuses(flooding)},
            "p95_ratio": round(statistics.median(ratios), 3),
            "each_turn": [round(ratio, 3) for ratio in ratios],
        }


def _ratio(served: float, alone: float) -> float:
    return served / alone


def _mean(values: list[float]) -> float:
    return round(statistics.fmean(values), 1) if values else 0.0


def plot(figures: dict[str, Any], path: Path) -> None:
    """Percentiles against offered load."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in figures["latency"] if row["pictures"]]
    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    for name in ("p50_s", "p95_s", "p99_s"):
        axes.plot([row["offered_per_s"] for row in rows], [row[name] for row in rows], marker="o", label=name[:-2])
    axes.axvline(
        figures["saturation"]["engine_alone_pictures_per_s"], color="grey", linestyle=":", label="Engine alone"
    )
    axes.set(xlabel="offered load, pictures a second", ylabel="latency, seconds", yscale="log")
    axes.set_title("laur serve, mini at 128x128, Poisson arrivals", fontsize=10)
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis("{x:g}")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it."""
    alone = Alone(args.size)
    try:
        with laur_serve(folder, "--limit", str(args.limit), *args.serve) as server:
            bench = Bench(server, alone, args)
            load(server.url, bench.stream(clients=4, seconds=3.0))  # warm
            figures: dict[str, Any] = {"engine": alone.engine, "rows_in_a_full_batch": alone.rows}
            figures["saturation"] = bench.saturation()
            most = figures["saturation"]["engine_alone_pictures_per_s"]
            for name in ("latency", "overload", "fairness"):
                if name in args.only:
                    figures[name] = getattr(bench, name)(most)
            faults = [line for line in server.said().splitlines() if "Traceback" in line]
            return {**figures, "tracebacks_in_the_log": len(faults)}
    finally:
        alone.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=12.0, help="of one measurement")
    parser.add_argument("--turns", type=int, default=3, help="of the Engine alone and the server")
    parser.add_argument("--limit", type=int, default=64, help="jobs in the server's queue")
    parser.add_argument("--only", nargs="*", default=["latency", "overload", "fairness"], help="beside saturation")
    parser.add_argument("--serve", action="append", default=[], help="a further option of laur serve, --serve=--option")
    parser.add_argument("--quick", action="store_true", help="3 s each, one turn: to see that it works")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "under_load.png")
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        draw_alone(args.size)
        return
    if args.quick:
        args.seconds, args.turns = 3.0, 1
    with tempfile.TemporaryDirectory(prefix="under-load-") as folder:
        figures = measure(args, Path(folder))
    report("under_load", __doc__.splitlines()[0] if __doc__ else "", figures, args.out)
    if "latency" in figures:
        plot(figures, args.plot)


if __name__ == "__main__":
    main()
