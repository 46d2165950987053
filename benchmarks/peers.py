"""How many pictures a second, and after how long, beside a plain FastAPI and diffusers server on the same weights?

`laur serve` and two such servers (benchmarks/plain_server.py) run at the same time, only one of them under load: in
float32, as diffusers comes, and in the arithmetic that Laur chose for this processor. The same clients ask each in turn
for pictures of mini at 128x128, four steps, no two alike.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import report
from served import HERE, Process, laur_serve, load, percentiles, throughput

SETTLE = 3.0
"""Seconds at the beginning and end that do not count for pictures a second."""


def plain(folder: Path, dtype: str) -> Process:
    """The peer."""
    command = [sys.executable, str(HERE / "plain_server.py"), "{port}", dtype]
    return Process(command, folder / f"{dtype}.log", ready="/health/ready")


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All in turn, `args.turns` times."""
    from laur.pipeline.device import choose

    same = choose().dtype_name
    with contextlib.ExitStack() as stack:
        servers = {"laur": stack.enter_context(laur_serve(folder))}
        for dtype in dict.fromkeys(("float32", same)):
            servers[f"diffusers_{dtype}"] = stack.enter_context(plain(folder, dtype))
        seeds = itertools.count(1)
        speeds: dict[str, list[float]] = {name: [] for name in servers}
        samples: dict[str, list[Any]] = {name: [] for name in servers}
        costs: dict[str, float] = {}
        for turn in range(args.turns + 1):
            for name, server in servers.items():
                seconds = args.seconds + 2 * SETTLE if turn else 3.0
                body = {"size": f"{args.size}x{args.size}"}
                stream = {"clients": args.clients, "seconds": seconds, "seed": next(seeds), "body": body}
                used = server.processor_seconds
                [found] = load(server.url, stream)
                costs[name] = (server.processor_seconds - used) / max(1, len(found))
                if turn:  # the first is to warm up
                    speeds[name].append(throughput(found, SETTLE, SETTLE + args.seconds))
                    samples[name] += found
        memory = {name: round(server.memory) for name, server in servers.items()}
    figures: dict[str, Any] = {"clients": args.clients, "laur_dtype": same, "size": args.size}
    for name, each in speeds.items():
        figures[name] = {
            "pictures_per_s": round(statistics.median(each), 3),
            **percentiles(samples[name]),
            "processor_s_per_picture": round(costs[name], 4),
            "memory_mib": memory[name],
        }
    for name, each in speeds.items():
        if name != "laur":
            ratios = [ours / max(1e-9, theirs) for ours, theirs in zip(speeds["laur"], each, strict=True)]
            figures[f"times_{name}"] = round(statistics.median(ratios), 3)
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0, help="of one measurement")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short turn, to see that it works")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.turns, args.clients = 6.0, 1, 4
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        figures = measure(args, Path(folder))
    report("peers", __doc__.splitlines()[0] if __doc__ else "", figures, args.out)


if __name__ == "__main__":
    main()
