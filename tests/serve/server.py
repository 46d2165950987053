"""A server on a free port, as `laur serve` would start it, but with an engine that draws nothing."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from fake_engine import FakeEngine

from helpers.redis_server import free_port
from laur.serve.cache import open_index
from laur.serve.http.app import create_app
from laur.serve.http.webhooks import Allowed, Webhooks
from laur.serve.observe.trace import OFF
from laur.serve.queue import QueueOptions, open_queue
from laur.serve.service import Limits, Service
from laur.serve.store import Store
from laur.serve.worker.crew import Crew
from laur.serve.worker.names import Names
from laur.serve.worker.options import WorkerOptions
from laur.serve.worker.worker import Worker


class Running:
    """A server in a thread."""

    def __init__(self, engine: FakeEngine, folder: Path, options: dict[str, Any]) -> None:
        self.engine = engine
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.app: Any = None
        self._folder, self._options = folder, options
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        options = self._options
        queue = open_queue(options.get("redis"), QueueOptions(**options.get("queue", {})))
        store, index, names = Store(self._folder / "results"), open_index(queue, 600.0), Names()
        tracing = options.get("tracing", OFF)
        service = Service(queue, store, index, names, Limits(**options.get("limits", {})), tracing=tracing)
        service.fetcher = options.get("fetcher", service.fetcher)
        worker = None
        if options.get("work", True):
            worker = Crew(
                [
                    Worker(
                        queue,
                        store,
                        index,
                        lambda: self.engine,  # pyright: ignore
                        names=names,
                        cap=lambda pixels: 8,
                        options=WorkerOptions(grace=5.0, block=0.1),
                        tracing=tracing,
                        safety=options.get("safety"),
                    )
                ]
            )
        trainer = options["trainer"](queue, store) if "trainer" in options else None
        webhooks = Webhooks(options.get("webhooks", Allowed.ANY), pause=0.05)
        self.app = create_app(
            service,
            worker,
            webhooks=webhooks,
            access=options.get("access"),
            trains=options.get("trains", False),
            trainer=trainer,
        )
        config = uvicorn.Config(self.app, port=self.port, log_level="warning", ws="none", timeout_graceful_shutdown=3)
        self._server = uvicorn.Server(config)
        await self._server.serve()

    def start(self) -> None:
        self._thread.start()
        while self._server is None or not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.02)

    def until_ready(self, **headers: str) -> None:
        """Wait until it takes jobs."""
        until = time.monotonic() + 60.0
        while (answer := httpx2.get(f"{self.url}/health/ready", headers=headers)).status_code != 200:
            assert time.monotonic() < until, answer.text
            time.sleep(0.02)

    def stop(self) -> None:
        assert self._server is not None
        self.engine.gate.set()
        self._server.should_exit = True
        self._thread.join()


@contextlib.contextmanager
def serving(folder: Path, engine: FakeEngine | None = None, **options: Any) -> Iterator[Running]:
    running = Running(engine or FakeEngine(), folder, options)
    running.start()
    try:
        yield running
    finally:
        running.stop()
