"""Is any job lost, or done twice, when workers are killed, Redis is killed and the network to it is cut?

Jobs are submitted through one connection; workers in processes of their own draw them over a wire that can be cut.
Every few seconds one of the workers is killed with SIGKILL and another started in its place; Redis (append-only file,
fsync always) is killed and started again once, and later the wire is cut for some seconds. Some jobs have deadlines.

At the end each job must be done with one file in the store that holds its recipe, or, if it had a deadline, be failed
for it; none may have been done after its deadline, and the queue's own count of ends must be the number of jobs. The
engine draws nothing, so that the queue is what is measured; --real takes mini instead.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from harness import report

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "serve")]

from helpers.redis_server import Proxy, RedisServer  # noqa: E402
from laur.core.errors import BusyError  # noqa: E402
from laur.core.recipe import Recipe  # noqa: E402
from laur.render.metadata import read  # noqa: E402
from laur.serve.job import Job, Record, State  # noqa: E402
from laur.serve.queue import QueueOptions, open_queue  # noqa: E402
from laur.serve.queue.redis import RedisQueue  # noqa: E402
from laur.serve.store import Store  # noqa: E402


def options(lease: float) -> QueueOptions:
    """What all processes of a run agree on."""
    return QueueOptions(lease=lease, limit=100_000, tenant_limit=100_000, outage=120.0)


# ------------------------------------------------------------------- workers


def work(redis: str, store: str, lease: float, seconds: float, *, real: bool) -> None:
    """One worker, until it is killed."""
    from laur.serve.cache import open_index
    from laur.serve.worker.names import Names
    from laur.serve.worker.options import WorkerOptions
    from laur.serve.worker.worker import Worker

    def engine() -> Any:
        if real:
            from laur.pipeline.engine import Engine

            return Engine()
        from fake_engine import FakeEngine

        return FakeEngine(seconds=seconds)

    async def go() -> None:
        queue = open_queue(redis, options(lease))
        worker = Worker(
            queue,
            Store(store),
            open_index(queue, 600.0),
            engine,
            names=Names(),
            cap=lambda pixels: 8,
            options=WorkerOptions(grace=10.0),
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain)
        await worker.run()

    asyncio.run(go())


class Crew:
    """Worker processes."""

    def __init__(self, count: int, arguments: list[str]) -> None:
        self._arguments = arguments
        self._processes = [self._start() for _ in range(count)]
        self.killed = 0

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, "work", *self._arguments]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def kill_one(self) -> None:
        """Kill the next in turn, and start another in its place."""
        place = self.killed % len(self._processes)
        self._processes[place].send_signal(signal.SIGKILL)
        self._processes[place].wait()
        self._processes[place] = self._start()
        self.killed += 1

    def stop(self) -> None:
        """Drain all of them."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# --------------------------------------------------------------------- chaos


async def submit(queue: RedisQueue, jobs: list[Job]) -> None:
    """One after the other, as fast as the queue takes them."""
    for job in jobs:
        while True:
            try:
                await queue.submit(job)
                break
            except BusyError as error:
                await asyncio.sleep(error.retry_after)


async def chaos(crew: Crew, redis: RedisServer, proxy: Proxy, args: argparse.Namespace) -> None:
    """Until it is cancelled."""
    began, killed, cut = time.monotonic(), False, False
    while True:
        await asyncio.sleep(args.kill_every)
        await asyncio.to_thread(crew.kill_one)
        if not killed and time.monotonic() - began > args.restart_at:
            killed = True
            await asyncio.to_thread(redis.restart, signal.SIGKILL, 1.0)
        if not cut and time.monotonic() - began > args.cut_at:
            cut = True
            proxy.cut()
            await asyncio.sleep(args.cut)
            proxy.mend()


def judge(records: list[Record], store: Store) -> Counter[str]:
    """What became of each job, in words; anything but `done` and `failed in time` is a fault."""
    found: Counter[str] = Counter()
    for record in records:
        job, deadline = record.job, record.job.deadline
        if record.state is State.DONE and record.result is not None:
            recipe = read(store.get(record.result.key)).recipe
            same = recipe is not None and (recipe.prompt, recipe.seed) == (job.recipe.prompt, job.recipe.seed)
            late = deadline is not None and (record.finished or 0.0) > deadline
            found["done" if same and not late else "done late" if late else "done with another's file"] += 1
        elif record.state is State.FAILED and record.failure is not None and record.failure.kind == "deadline":
            found["failed in time" if deadline is not None else "failed for no deadline of its own"] += 1
        else:
            found[f"{record.state.value}: {record.failure.kind if record.failure else 'no reason'}"] += 1
    return found


async def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One whole run; its figures."""
    (folder / "redis").mkdir()
    redis = RedisServer(folder / "redis", "--appendfsync", "always")
    redis.start()
    proxy, store = Proxy(redis.port), Store(folder / "store")
    arguments = [proxy.url, str(folder / "store"), str(args.lease), str(args.seconds), *(["--real"] * args.real)]
    crew = Crew(args.workers, arguments)
    queue = open_queue(redis.url, options(args.lease))
    assert isinstance(queue, RedisQueue)
    draw, began = random.Random(args.seed), time.time()
    size = {"width": 64, "height": 64, "steps": 4}
    jobs = [
        Job(
            recipe=Recipe(prompt=f"picture {number}", seed=number, **size),
            tenant=f"tenant{number % 7}",
            deadline=began + draw.uniform(5, 60) if draw.random() < 0.05 else None,
        )
        for number in range(args.jobs)
    ]
    trouble = asyncio.create_task(chaos(crew, redis, proxy, args))
    try:
        await submit(queue, jobs)
        while (stats := await queue.stats()).waiting + stats.running:
            await queue.sweep()
            await asyncio.sleep(0.5)
            if time.time() - began > args.give_up:
                break
    finally:
        trouble.cancel()
        await asyncio.gather(trouble, return_exceptions=True)
        proxy.mend()
        await asyncio.to_thread(crew.stop)
    seconds = time.time() - began
    records = [await queue.get(job.id) for job in jobs]
    stats = await queue.stats()
    await queue.close()
    proxy.close()
    redis.stop()
    found = judge(records, store)
    ends = sum(stats.counters.get(state, 0) for state in ("done", "failed", "cancelled"))
    files = sum(1 for _ in (folder / "store").rglob("*.png"))
    sound = found["done"] + found["failed in time"] == args.jobs == ends and stats.parked == 0
    return {
        "jobs": args.jobs,
        "seconds": round(seconds, 1),
        "workers killed": crew.killed,
        "outcomes": dict(found),
        "ends counted by the queue": ends,
        "files in the store": files,
        "attempts beyond the first": sum(max(0, record.attempts - 1) for record in records),
        "leases lost": stats.counters.get("leases_lost", 0),
        "nothing lost": sound,
    }


def main() -> None:
    """The command line; exit code 1 where anything was lost."""
    if sys.argv[1:2] == ["work"]:
        redis, store, lease, seconds = sys.argv[2:6]
        work(redis, store, float(lease), float(seconds), real="--real" in sys.argv)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=3.0, help="seconds between kills of a worker")
    parser.add_argument("--restart-at", type=float, default=10.0, help="seconds before Redis is killed")
    parser.add_argument("--cut-at", type=float, default=20.0, help="seconds before the network is cut")
    parser.add_argument("--cut", type=float, default=5.0, help="seconds for which it is")
    parser.add_argument("--lease", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=0.15, help="of one step of the engine that draws nothing")
    parser.add_argument("--real", action="store_true", help="draw with mini")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    parser.add_argument("--give-up", type=float, default=900.0)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that nothing is left running
    with tempfile.TemporaryDirectory(prefix="nothing-lost-") as folder:
        outcome = asyncio.run(run(args, Path(folder)))
    report("nothing_lost", __doc__.splitlines()[0] if __doc__ else "", outcome, args.out)
    sys.exit(0 if outcome["nothing lost"] else 1)


if __name__ == "__main__":
    main()
