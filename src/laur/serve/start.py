"""Put together what a process needs, and run it until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from laur.core.errors import UnavailableError
from laur.core.recipe import DEFAULT_CHECKPOINT
from laur.serve.addresses import Allowed
from laur.serve.cache import open_index
from laur.serve.fetching import Fetcher
from laur.serve.observe.objective import Objective
from laur.serve.observe.trace import Tracing, open_tracing
from laur.serve.queue import Queue, QueueOptions, open_queue
from laur.serve.safety import open_safety
from laur.serve.service import Limits, Service
from laur.serve.store import Store
from laur.serve.worker.names import Names
from laur.serve.worker.options import WorkerOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from laur.pipeline.engine import Engine
    from laur.pipeline.lanes import RowCap
    from laur.serve.worker.crew import Crew
    from laur.serve.worker.worker import Worker

CACHED = 600.0
"""Seconds for which a result is believed to be what its recipe's names still mean."""


_MEASURING = threading.Lock()
"""Engines of one process measure one after another; one on the same kind of device finds what the first has kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Of one process."""

    checkpoint: str = DEFAULT_CHECKPOINT
    serves: frozenset[str] | None = None
    device: str | None = None
    devices: tuple[str, ...] = ()
    """Where there are several: an Engine on each, in place of `device`."""
    dtype: str | None = None
    redis: str | None = None
    store: str | None = None
    """A folder or URL; results/ in the user's cache by default."""
    queue: QueueOptions = field(default_factory=QueueOptions)
    limits: Limits = field(default_factory=Limits)
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    measure: bool = True
    """Whether caps of batches are measured where no profile of this device is kept."""
    webhooks: str = "off"
    image_urls: str = "off"
    """Pictures by address: off, public or any."""
    objective: Objective = field(default_factory=Objective)
    safety: str | None = None
    """A folder or a plug-in, see `laur.serve.safety`; nothing is judged without one."""
    service_name: str = "laur-serve"
    """In traces."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What both kinds of process share."""

    queue: Queue
    service: Service
    names: Names
    tracing: Tracing


def parts(setup: Setup) -> Parts:
    """Open queue, store, index and traces. Errors: MissingDependencyError, NotFoundError, OutputError."""
    from laur.core.places import cache_folder

    queue = open_queue(setup.redis, setup.queue)
    store = Store(setup.store or cache_folder() / "results", keep=2 * setup.queue.keep)
    index, names = open_index(queue, CACHED), Names(setup.checkpoint, setup.serves)
    tracing = open_tracing(setup.service_name)
    service = Service(queue, store, index, names, setup.limits, tracing=tracing, objective=setup.objective)
    service.fetcher = Fetcher(allowed=Allowed(setup.image_urls), bytes=setup.limits.body)
    return Parts(queue, service, names, tracing)


def make_crew(setup: Setup, opened: Parts) -> Crew:
    """A worker for each device."""
    from laur.serve.worker.crew import Crew

    if len(setup.devices) < 2:
        return Crew([make_worker(setup, opened)])
    each: list[Worker] = []
    for number, device in enumerate(setup.devices):
        options = replace(setup.worker, name=f"{setup.worker.name}-{number}")
        each.append(make_worker(replace(setup, device=device, devices=(), worker=options), opened))
    return Crew(each)


def make_worker(setup: Setup, opened: Parts) -> Worker:
    """A worker with an Engine that is opened in its thread."""
    from laur.serve.worker.held import LATENT
    from laur.serve.worker.worker import Worker

    cap = Cap()

    def make() -> Engine:
        engine = open_engine(setup, cap, opened.names)
        native = engine.library.checkpoint(setup.checkpoint).native_size
        worker.hand.usual = (native // LATENT) ** 2
        warm_up(engine)
        return engine

    worker = Worker(
        opened.queue,
        opened.service.store,
        opened.service.index,
        make,
        names=opened.names,
        cap=cap,
        options=setup.worker,
        tracing=opened.tracing,
        safety=None if setup.safety is None else open_safety(setup.safety),
    )
    return worker


def run(make: Callable[[Callable[[], None]], FastAPI], host: str, port: int, grace: float) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what is being answered and drawn.

    `make` gets a function that ends the server and gives the application. Errors: MissingDependencyError,
    UnavailableError where the address cannot be used, and the Engine's where it could not be opened or ended by
    itself, so that the process is started anew.
    """
    server = _server(host, port, grace)
    app = make(server.leave)
    server.config.app = app
    try:
        asyncio.run(server.serve())
    except SystemExit:  # uvicorn has said why in its log
        raise UnavailableError(f"cannot listen on {host}:{port}; another program may, choose another --port") from None
    crew: Crew | None = app.state.crew
    if crew is not None and crew.fault is not None:
        raise crew.fault


def _server(host: str, port: int, grace: float) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Drains the worker at the first signal, while requests that wait for it still get their answers."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """The second Ctrl-C does not wait."""
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.leave()

        def leave(self) -> None:
            """Begin to end."""
            self.should_exit = True
            crew: Crew | None = getattr(self.config.app, "state").crew  # noqa: B009 - typed as any application
            if crew is not None:
                crew.drain()

    config = uvicorn.Config("", host=host, port=port, log_level="warning", log_config=None, access_log=False, ws="none")
    config.timeout_graceful_shutdown = max(1, round(grace))
    return Server(config)


class Cap:
    """Caps by size; before anything is measured, what the Engine itself assumes of a CPU."""

    def __init__(self) -> None:
        self.rows: RowCap | None = None

    def __call__(self, pixels: int) -> int:
        """Rows of a full batch of that size."""
        return max(1, 8 * 32 * 32 // pixels) if self.rows is None else self.rows(pixels)


def open_engine(setup: Setup, cap: Cap, names: Names) -> Engine:
    """Open the Engine and find its caps: kept from an earlier start, measured now, or assumed."""
    from laur.pipeline.device import choose
    from laur.pipeline.engine import Engine
    from laur.serve.worker.named_library import NamedLibrary
    from laur.serve.worker.profile import Profile, measure, sides_for

    library = NamedLibrary(names, choose(setup.device, setup.dtype))
    engine = Engine(setup.checkpoint, row_pixels=2**30, library=library)
    path = _profile_path(engine)
    with _MEASURING:
        profile = Profile.read(path)
        if profile is None and setup.measure:
            native = engine.library.checkpoint(setup.checkpoint).native_size
            profile = measure(engine, sides_for(native))
            profile.save(path)
    if profile is None:
        return Engine(setup.checkpoint, library=engine.library)
    cap.rows = profile.rows
    return Engine(setup.checkpoint, library=engine.library, row_pixels=profile.rows, free_rows=profile.free)


def warm_up(engine: Engine) -> None:
    """Draw a small picture: weights are read and placed before a worker says that it is ready. Errors: the Engine's."""
    from laur.core.recipe import Recipe

    engine.run([Recipe(prompt="a first picture", seed=0, steps=1, width=64, height=64)])


def _profile_path(engine: Engine) -> Path:
    import hashlib
    import platform

    import torch

    from laur.core.places import cache_folder

    place = engine.library.placement
    machine = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else platform.processor()
    what = [engine.library.checkpoint(engine.checkpoint).key, str(place.device.type), machine, place.dtype_name]
    what += [str(torch.get_num_threads()), torch.__version__]
    return cache_folder() / "profiles" / f"{hashlib.sha256('|'.join(what).encode()).hexdigest()[:24]}.json"
