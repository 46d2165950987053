"""Whether a process lives, and whether it can be sent work: answers that are true, for probes."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel

from laur.serve.queue import Queue
from laur.serve.worker.worker import Worker

router = APIRouter(prefix="/health", tags=["health"])


class Health(BaseModel):
    """What a probe is told."""

    status: Literal["ok", "unavailable"]
    reasons: list[str]


def _answer(response: Response, reasons: list[str]) -> Health:
    response.headers["Cache-Control"] = "no-store"
    response.status_code = 503 if reasons else 200
    return Health(status="unavailable" if reasons else "ok", reasons=reasons)


_RESPONSES: dict[int | str, dict[str, object]] = {503: {"model": Health, "description": "Not so, and why."}}


@router.get("/live", responses=_RESPONSES)
async def live(request: Request, response: Response) -> Health:
    """False only for what a restart would cure."""
    worker: Worker | None = request.app.state.worker
    return _answer(response, [] if worker is None or worker.live else ["the engine has not moved for a long time"])


@router.get("/ready", responses=_RESPONSES)
async def ready(request: Request, response: Response) -> Health:
    """Whether work may be sent here: the queue answers, and the worker of this process is loaded and not draining."""
    return _answer(response, await reasons(request.app))


async def reasons(app: FastAPI) -> list[str]:
    """Why the process is not ready; nothing where it is."""
    worker: Worker | None = app.state.worker
    queue: Queue = app.state.queue
    found: list[str] = []
    if not await queue.ping():
        found.append("the queue does not answer")
    if worker is not None and worker.thread.fault is not None:
        found.append(str(worker.thread.fault))
    elif worker is not None and not worker.ready:
        found.append("it is draining" if worker.draining else "the engine is being loaded")
    return found
