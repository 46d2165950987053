"""Does any of 10,000 random requests bring a server to a fault, or leave something behind?

`laur serve` with mini gets them over loopback, eight at a time, on every route of its OpenAPI document: right ones,
spoilt ones, and bytes that are no HTTP. No answer may be a 500, no traceback may stand in its log, and neither memory
nor file handles may grow after the first fifth. Afterwards it must still draw.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from fuzzing import Fuzz, Request
from harness import report
from served import MIB, Process, laur_serve

ALLOWED = {501, 503, 504, 507}
"""From 500 on, what a server may say on purpose; none of them is a fault."""
PATIENCE = 30.0
"""Seconds for one answer, where there is to be one; else it is left after `LEAVE`."""
LEAVE = 2.0
GROWTH = 64 * MIB
"""Of memory that is still no growth: caches of sizes and texts fill up to their limits."""


async def send(server: Process, request: Request, fuzz: Fuzz) -> int:
    """The status; 0 where the connection was closed without one, -1 where nothing came in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request.raw)
        await writer.drain()
        async with asyncio.timeout(LEAVE if request.endless else PATIENCE):
            head = await reader.readline()
            status = int(head.split()[1]) if head.startswith(b"HTTP/") else 0
            content = await reader.read(2**22)
        if status == 202 and b'"id"' in content[-(2**16) :]:
            body = json.loads(content[content.index(b"{") :])
            fuzz.ids = [*fuzz.ids[-20:], body["id"]]
        return status
    except TimeoutError:
        return -1
    except (OSError, ValueError):
        return 0
    finally:
        writer.close()


async def run(server: Process, fuzz: Fuzz, count: int, clients: int) -> tuple[Counter[int], list[str]]:
    """Send so many; statuses, and the requests that met a fault."""
    found: Counter[int] = Counter()
    faults: list[str] = []
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            request = fuzz.request()
            status = await send(server, request, fuzz)
            found[status] += 1
            if status >= 500 and status not in ALLOWED:
                faults.append(f"{status}: {request}")

    await asyncio.gather(*(client() for _ in range(clients)))
    return found, faults


def settled(server: Process) -> dict[str, float]:
    """Memory and handles once nothing is under way."""
    for _ in range(60):
        with urllib.request.urlopen(f"{server.url}/v1/queue", timeout=10) as answer:
            stats = json.load(answer)
        if stats["waiting"] + stats["running"] == 0:
            break
        time.sleep(1.0)
    time.sleep(1.0)
    return {"memory_mib": round(server.memory, 1), "handles": server.handles}


def draws(server: Process) -> bool:
    """Whether a plain request is still fulfilled."""
    body = json.dumps({"prompt": "a red apple", "size": "64x64", "seed": 123456}).encode()
    request = urllib.request.Request(f"{server.url}/v1/images/generations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.status == 200 and len(json.load(answer)["data"]) == 1


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it."""
    with laur_serve(folder, "--max-size", "128", "--limit", "200", *args.serve) as server:
        with urllib.request.urlopen(f"{server.url}/openapi.json", timeout=30) as answer:
            fuzz = Fuzz(json.load(answer), args.seed)
        draws(server)
        fifth = max(1, args.requests // 5)
        statuses, faults = asyncio.run(run(server, fuzz, fifth, args.clients))
        before = settled(server)
        more, later = asyncio.run(run(server, fuzz, args.requests - fifth, args.clients))
        after = settled(server)
        alive = draws(server)
        log = server.said()
    grown = (after["memory_mib"] - before["memory_mib"]) * MIB
    tracebacks = log.count("Traceback")
    for line in (faults + later)[:20]:
        print(line, file=sys.stderr)
    if tracebacks:
        print(log[log.index("Traceback") :][:3000], file=sys.stderr)
    sound = not faults and not later and not tracebacks and alive
    return {
        "requests": args.requests,
        "seed": args.seed,
        "answers": {str(status): count for status, count in sorted((statuses + more).items())},
        "faults": len(faults) + len(later),
        "tracebacks_in_the_log": tracebacks,
        "after_a_fifth": before,
        "at_the_end": after,
        "draws_afterwards": alive,
        "sound": sound and grown < GROWTH and after["handles"] <= before["handles"] + 4,
    }


def main() -> None:
    """The command line; exit code 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", action="append", default=[], help="a further option of laur serve, --serve=--option")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-requests-") as folder:
        figures = measure(args, Path(folder))
    report("fuzz_requests", __doc__.splitlines()[0] if __doc__ else "", figures, args.out)
    sys.exit(0 if figures["sound"] else 1)


if __name__ == "__main__":
    main()
