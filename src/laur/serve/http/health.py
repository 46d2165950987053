"""Whether a process lives, and whether it can be sent work: answers that are true, for probes."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel

from laur.core.errors import LaurError
from laur.serve.queue import Queue
from laur.serve.worker.crew import Crew

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
    crew: Crew | None = request.app.state.crew
    if crew is None or crew.live:
        return _answer(response, [])
    return _answer(response, [fault_of(crew) or "the engine has not moved for a long time"])


@router.get("/ready", responses=_RESPONSES)
async def ready(request: Request, response: Response) -> Health:
    """Whether work may be sent here: the queue takes jobs, and the worker of this process does: it is loaded, not
    draining, and can keep what it draws."""
    return _answer(response, await reasons(request.app))


async def reasons(app: FastAPI) -> list[str]:
    """Why the process is not ready; nothing where it is."""
    crew: Crew | None = app.state.crew
    queue: Queue = app.state.queue
    found: list[str] = []
    if (trouble := await queue.trouble()) is not None:
        found.append(trouble)
    if crew is not None and (reason := fault_of(crew) or crew.reason) is not None:
        found.append(reason)
    return found


def fault_of(crew: Crew) -> str | None:
    """What is wrong with an Engine, in a line that may be shown; None where nothing is."""
    if crew.fault is None:
        return None
    return str(crew.fault) if isinstance(crew.fault, LaurError) else "the engine could not be opened"
