"""The application: all APIs over one service, and in one process its worker too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from laur import __version__
from laur.core.errors import UnavailableError
from laur.serve.access import Access
from laur.serve.access.allowance import open_allowance
from laur.serve.access.links import Links
from laur.serve.http import (
    a1111,
    a1111_pictures,
    cog,
    health,
    inputs,
    jobs,
    metrics,
    openai,
    openai_edits,
    problem,
    replicate,
    trainings,
)
from laur.serve.http.body_limit import BodyLimit
from laur.serve.http.gate import Gate
from laur.serve.http.observed import Observed, Requests
from laur.serve.http.webhooks import Webhooks
from laur.serve.observe.trace import OFF, Tracing
from laur.serve.queue import Queue
from laur.serve.service import Service
from laur.serve.training.worker import TrainingWorker
from laur.serve.worker.crew import Crew

LOG = logging.getLogger(__name__)
SWEEP = 5.0
"""Seconds between sweeps of the queue by an API process, so that deadlines hold while no worker is there."""


def create_app(
    service: Service,
    crew: Crew | None = None,
    *,
    webhooks: Webhooks | None = None,
    stop: Callable[[], None] | None = None,
    access: Access | None = None,
    trains: bool = False,
    trainer: TrainingWorker | None = None,
) -> FastAPI:
    """The HTTP server. With a `crew` it works too; `stop` is called when that ends by itself.

    `trains` says whether trainings are taken; with a `trainer` it sees them through as well.
    """
    webhooks = webhooks or Webhooks()
    app = _bare(service.queue, crew, stop, service.tracing, webhooks, trainer=trainer)
    app.state.trains = trains or trainer is not None
    app.state.service, app.state.webhooks, app.state.desk = service, webhooks, a1111.Desk()
    app.add_middleware(BodyLimit, limit=service.limits.body)
    for api in (jobs, inputs, openai, openai_edits, a1111, a1111_pictures, cog, replicate, trainings):
        app.include_router(api.router)
    _guard(app, service, access or Access())
    return app


def _guard(app: FastAPI, service: Service, access: Access) -> None:
    """API keys, and before them what browsers ask first."""
    if access.keys is not None:
        keys = access.keys
        allowance = app.state.allowance = open_allowance(service.queue)
        service.links = Links(lambda: keys.secret, service.store.keep / 2)
        app.add_middleware(Gate, keys=keys, allowance=allowance, links=service.links, open_metrics=access.open_metrics)
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(access.origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["ETag", "Location", "Retry-After", "X-Request-Id"],
        )


def create_worker_app(
    crew: Crew,
    *,
    stop: Callable[[], None] | None = None,
    tracing: Tracing = OFF,
    trainer: TrainingWorker | None = None,
) -> FastAPI:
    """What workers without an API answer: probes and metrics."""
    return _bare(crew.queue, crew, stop, tracing, trainer=trainer)


class _App(FastAPI):
    """Seen from outside its own handling of errors, see `Observed`."""

    def build_middleware_stack(self) -> ASGIApp:
        return Observed(super().build_middleware_stack(), self.state.requests, self.state.tracing)


def _bare(
    queue: Queue,
    crew: Crew | None,
    stop: Callable[[], None] | None,
    tracing: Tracing,
    webhooks: Webhooks | None = None,
    *,
    trainer: TrainingWorker | None = None,
) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        sweeping = asyncio.create_task(_sweep(queue))
        working = None if crew is None else asyncio.create_task(crew.run())
        training = None if trainer is None else asyncio.create_task(trainer.run())
        if working is not None:
            working.add_done_callback(lambda task: _ended(task, "the worker", stop))
        if training is not None:
            training.add_done_callback(lambda task: _ended(task, "what sees trainings through", stop))
        try:
            yield
        finally:
            sweeping.cancel()
            if trainer is not None and training is not None:
                trainer.drain()
            if crew is not None and working is not None:
                crew.drain()
                await asyncio.gather(working, return_exceptions=True)
            if training is not None:
                await asyncio.gather(training, return_exceptions=True)
            if webhooks is not None:
                await webhooks.close()
            await queue.close()
            await asyncio.to_thread(tracing.close)

    app = _App(
        title="Laur",
        version=__version__,
        summary="Few-step image generation",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.queue, app.state.crew = queue, crew
    app.state.requests, app.state.tracing = Requests(), tracing
    problem.install(app)
    app.include_router(health.router)
    app.include_router(metrics.router)
    return app


def _ended(task: asyncio.Task[None], who: str, stop: Callable[[], None] | None) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        LOG.error("%s ended: %s", who, error)
    if stop is not None:
        stop()


async def _sweep(queue: Queue) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        try:
            await queue.sweep()
        except UnavailableError as error:
            LOG.info("%s", error)
        except Exception:
            LOG.exception("a sweep of the queue met an unexpected fault")
