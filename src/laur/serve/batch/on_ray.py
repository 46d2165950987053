"""A batch on an existing Ray cluster: one painter per GPU, or per machine without one, each pulling small chunks.

Recipes travel out and files travel back, so the machines need no common disk (checkpoints and adapters that recipes
name by path must be there on each). A chunk whose machine dies is given to another; a chunk that has outlived `TRIES`
painters is written down as failed, so that one poisonous recipe does not take the cluster with it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from laur.core.errors import LaurError, MissingDependencyError, UnavailableError
from laur.core.recipe import Recipe
from laur.serve.batch.local import Tally, draw, settle, waiting
from laur.serve.batch.wishes import Wish

if TYPE_CHECKING:
    from laur.serve.batch.folder import Folder

CHUNK_CPU, CHUNK_GPU = 4, 16
"""Wishes that a painter takes at a time: what is drawn again where its machine dies."""
TRIES = 3
LOOK_EVERY = 5.0
"""Seconds between looks for machines that have joined."""
PATIENCE = 120.0
"""Seconds without any machine before the batch gives up; what is drawn stays."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What each painter's Engine is made with."""

    checkpoint: str
    format: str
    device: str | None = None
    dtype: str | None = None


class Painter:
    """An Engine on one machine of the cluster."""

    def __init__(self, options: EngineOptions) -> None:
        from laur.pipeline.engine import Engine

        self._engine = Engine(options.checkpoint, device=options.device, dtype=options.dtype)
        self._format = options.format

    def draw(self, chunk: list[tuple[int, str, dict[str, Any]]]) -> list[tuple[int, bytes | str]]:
        """By place in the chunk: a file, or what is wrong in a line."""
        wishes = [Wish(place, stem, Recipe.from_dict(values)) for place, stem, values in chunk]
        drawn = draw(self._engine, iter(wishes), self._format)
        return [(wish.line, str(found) if isinstance(found, LaurError) else found) for wish, found in drawn]


@dataclass(slots=True, eq=False)
class Chunk:
    """Wishes that travel together."""

    wishes: list[Wish]
    tries: int = 0


@dataclass(slots=True, eq=False)
class Place:
    """A painter, the machine it is on and what it draws."""

    actor: Any
    node: str
    size: int
    chunk: Chunk | None = None
    task: Any = None


@dataclass(slots=True)
class Cluster:
    """The painters of a batch."""

    ray: Any
    options: EngineOptions
    places: list[Place] = field(default_factory=list[Place])

    def join(self) -> None:
        """A painter for each GPU, or machine without one, that has none yet; those of lost machines are forgotten."""
        alive = {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}
        for node, resources in alive.items():
            gpus = int(resources.get("GPU", 0))
            wanted = gpus or (1 if resources.get("CPU", 0) else 0)
            there = sum(place.node == node for place in self.places)
            for _ in range(wanted - there):
                self._add(node, gpu=gpus > 0, cpus=float(resources.get("CPU", 0)) / max(1, wanted))

    def _add(self, node: str, *, gpu: bool, cpus: float) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        kind = self.ray.remote(Painter).options(
            num_gpus=1 if gpu else 0,
            # a machine's CPUs belong to its painter; with a GPU one is enough to hold the place
            num_cpus=1 if gpu else max(1, int(cpus)),
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        self.places.append(Place(kind.remote(self.options), node, CHUNK_GPU if gpu else CHUNK_CPU))


def connect(address: str) -> Any:
    """Ray, connected. Errors: MissingDependencyError, UnavailableError."""
    try:
        import ray
    except ImportError:
        raise MissingDependencyError("--ray needs Ray; install it with: pip install 'lcm-laur[ray]'") from None
    try:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnavailableError(
            f"no Ray cluster answers at {address}: {reason}; start one with `ray start --head`"
        ) from None
    return ray


def run(
    address: str,
    options: EngineOptions,
    wishes: Iterator[Wish],
    folder: Folder,
    tally: Tally,
    *,
    report: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Draw what is missing on the cluster at `address`. Errors: UnavailableError, OutputError, DataError."""
    ray = connect(address)
    cluster = Cluster(ray, options)
    todo = waiting(wishes, folder, tally, report)
    again: deque[Chunk] = deque()
    looked = alone_since = time.monotonic()
    cluster.join()
    try:
        while True:
            for place in cluster.places:
                if place.task is None:
                    _give(place, again, todo)
            busy = {place.task: place for place in cluster.places if place.task is not None}
            now = time.monotonic()
            if not busy:
                if cluster.places and not again:
                    return tally
                if now - alone_since > PATIENCE:
                    raise UnavailableError(f"no machine of the cluster has been there for {PATIENCE:.0f} s; run again")
            else:
                alone_since = now
            ready, _ = ray.wait(list(busy), timeout=LOOK_EVERY) if busy else (time.sleep(1.0) or [], [])
            for task in ready:
                _settle(ray, busy[task], cluster, again, folder=folder, tally=tally)
                report(tally)
            if now - looked > LOOK_EVERY:
                looked = now
                cluster.join()
    finally:
        for place in cluster.places:
            ray.kill(place.actor)


def _give(place: Place, again: deque[Chunk], todo: Iterator[Wish]) -> None:
    """Work for an idle painter: first what a lost one left."""
    chunk = again.popleft() if again else Chunk([wish for _, wish in zip(range(place.size), todo, strict=False)])
    if not chunk.wishes:
        return
    packed: list[tuple[int, str, dict[str, Any]]] = []
    for number, wish in enumerate(chunk.wishes):
        assert isinstance(wish.recipe, Recipe)
        packed.append((number, wish.stem, wish.recipe.to_dict()))
    place.chunk, place.task = chunk, place.actor.draw.remote(packed)


def _settle(ray: Any, place: Place, cluster: Cluster, again: deque[Chunk], *, folder: Folder, tally: Tally) -> None:
    """Take a finished chunk; after a machine's death put its chunk back."""
    chunk, task = place.chunk, place.task
    assert chunk is not None
    place.chunk = place.task = None
    try:
        found: list[tuple[int, bytes | str]] = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause = " ".join(str(error.cause).split())[:200]
        cluster.places.remove(place)
        raise UnavailableError(f"a painter cannot work: {cause}") from None
    except ray.exceptions.RayError as error:
        cluster.places.remove(place)
        if getattr(error, "actor_init_failed", False):
            raise UnavailableError(f"a painter cannot begin: {_last_line(error)}") from None
        chunk.tries += 1
        if chunk.tries < TRIES:
            again.append(chunk)
            return
        fault = UnavailableError(f"{TRIES} painters were lost over it; draw it alone to see why")
        for wish in chunk.wishes:
            settle(wish, fault, folder, tally)
        return
    for number, result in found:
        settle(chunk.wishes[number], LaurError(result) if isinstance(result, str) else result, folder, tally)


def _last_line(error: Exception) -> str:
    """What the remote traceback ends in."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
