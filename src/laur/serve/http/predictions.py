"""Predictions as Cog and Replicate know them: one wish for some pictures, over as many jobs.

All that a prediction is stands in its first job, so any API process can tell of it.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from laur.core.errors import NotFoundError, RecipeError
from laur.core.recipe import PROMPT_LIMIT, SEED_LIMIT, STEPS_LIMIT, Recipe
from laur.serve.http import wishes
from laur.serve.http.milestones import Milestone
from laur.serve.http.models import AdapterBody
from laur.serve.http.pictures import Picture, Pictures
from laur.serve.job import Record, Result, State
from laur.serve.service import Service

ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$"
Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]
FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}


class Input(BaseModel):
    """What a prediction is made from; the names are those of the public SD and LCM models."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=PROMPT_LIMIT, pattern=r"\S", description="What to draw.")
    negative_prompt: str = Field("", max_length=PROMPT_LIMIT, description="What to avoid; needs guidance above 1.")
    width: int | None = Field(None, ge=16, le=4096)
    height: int | None = Field(None, ge=16, le=4096)
    num_outputs: int = Field(1, ge=1, le=16, description="Pictures; number i has seed + i.")
    num_inference_steps: int | None = Field(None, ge=1, le=STEPS_LIMIT)
    guidance_scale: float | None = Field(None, ge=0.0, le=100.0)
    scheduler: Literal["lcm", "tcd", "ddim", "euler", "dpm++2m"] | None = None
    seed: int | None = Field(None, ge=0, le=SEED_LIMIT - 100)
    style: str | None = Field(None, min_length=1, max_length=200, pattern=r"\S")
    adapters: list[AdapterBody] | None = Field(None, max_length=32)
    output_format: Literal["png", "jpg", "jpeg", "webp"] = "png"
    image: Picture | None = Field(None, description="The picture to begin from.")
    mask: Picture | None = Field(None, description="White, or transparent, where the picture is drawn anew.")
    prompt_strength: float | None = Field(
        None, ge=0.0, le=1.0, description="How much is drawn over the picture: 1 is everything."
    )
    strength: float | None = Field(None, ge=0.0, le=1.0, description="Another name of prompt_strength.")

    def recipe(self, checkpoint: str | None) -> Recipe:
        """Raises RecipeError."""
        adapters = None if self.adapters is None else tuple(entry.ref() for entry in self.adapters)
        if self.prompt_strength is not None and self.strength not in {None, self.prompt_strength}:
            raise RecipeError("prompt_strength and strength are one thing here and differ; leave one out")
        return Recipe(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            width=self.width,
            height=self.height,
            steps=self.num_inference_steps,
            guidance=self.guidance_scale,
            sampler=self.scheduler,
            seed=self.seed,
            style=self.style,
            adapters=adapters,
            checkpoint=checkpoint,
            image=self.image,
            mask=self.mask,
            strength=self.strength if self.prompt_strength is None else self.prompt_strength,
        )


class PredictionBody(BaseModel):
    """A request for a prediction."""

    model_config = ConfigDict(extra="ignore")

    input: Input
    id: str | None = Field(None, pattern=ID)
    version: str | None = Field(None, max_length=300)
    webhook: str | None = Field(None, max_length=2000, pattern=r"^https?://")
    webhook_events_filter: list[Milestone] | None = Field(None, max_length=4)
    stream: bool | None = None


class Prediction(BaseModel):
    """What has become of it."""

    id: str
    model: str
    version: str
    status: Status
    input: dict[str, Any]
    output: list[str] | None
    error: str | None
    logs: str
    metrics: dict[str, float]
    created_at: str
    started_at: str | None
    completed_at: str | None
    urls: dict[str, str]
    webhook: str | None = None


Output = Callable[[Result, bytes | None], str]
"""How a result is given: as a link, or with its bytes as a data URL."""


async def begin(service: Service, body: PredictionBody, pictures: Pictures, *, model: str | None, api: str) -> str:
    """Queue a prediction's jobs; its id. Errors: those of `Pictures.settled` and `Service.submit_all`."""
    number = body.id or secrets.token_hex(13)
    wish = body.input.model_copy(update=await pictures.settled(body.input.image, body.input.mask))
    note = {
        "api": api,
        "count": wish.num_outputs,
        "input": wish.model_dump(exclude_unset=True),
        "webhook": body.webhook,
    }
    jobs = wishes.several(
        wish.recipe(model),
        wish.num_outputs,
        id=number,
        tenant=pictures.tenant,
        format=FORMATS[wish.output_format],
        note=note,
    )
    await service.submit_all(jobs)
    return number


def parts(record: Record) -> list[str]:
    """Ids of all jobs of the prediction whose first job this is. Raises NotFoundError where it is no prediction."""
    count = record.job.note.get("count")
    if not isinstance(count, int):
        raise NotFoundError(f"no prediction {record.job.id!r}; a job of that id is at /v1/jobs/{record.job.id}")
    return [record.job.id, *(f"{record.job.id}-{number}" for number in range(1, count))]


async def read(service: Service, number: str, *, base: str, data: bool) -> Prediction:
    """A prediction as it is now, with links below `base`, or with `data` the pictures themselves.

    Raises NotFoundError.
    """
    if not re.fullmatch(ID, number):
        raise NotFoundError(f"no prediction {number[:64]!r}")
    first = await service.queue.get(number)
    records = [first, *[await service.queue.get(part) for part in parts(first)[1:]]]
    status = _status(records)
    output: list[str] | None = None
    if status == "succeeded":
        output = [await _output(service, record, base, data) for record in records]
    failed = next((record.failure for record in records if record.state is State.FAILED), None)
    started = [record.started for record in records if record.started is not None]
    ended = [record.finished for record in records if record.finished is not None]
    over = status in {"succeeded", "failed", "canceled"}
    metrics: dict[str, float] = {}
    if over and ended:
        metrics["predict_time"] = max(0.0, max(ended) - (min(started) if started else max(ended)))
        metrics["total_time"] = max(0.0, max(ended) - first.job.created)
    model = first.job.recipe.checkpoint or service.names.models()[0]
    return Prediction(
        id=number,
        model=f"laur/{model}",
        version=version_of(model),
        status=status,
        input=dict(first.job.note.get("input", {})),
        output=output,
        error=failed.message if failed is not None else None,
        logs=_logs(records),
        metrics=metrics,
        created_at=stamp(first.job.created),
        started_at=stamp(min(started)) if started else None,
        completed_at=stamp(max(ended)) if over and ended else None,
        urls=_urls(base, number, first.job.note.get("api") == "replicate"),
        webhook=first.job.note.get("webhook"),
    )


def version_of(model: str) -> str:
    """64 digits that stand for a model on this server, as Replicate names versions."""
    import hashlib

    from laur import __version__

    return hashlib.sha256(f"laur {__version__} {model}".encode()).hexdigest()


def model_of(service: Service, version: str) -> str | None:
    """The checkpoint that a version means, as a recipe says it: OWNER/NAME:VERSION, VERSION or OWNER/NAME.

    Raises RecipeError for one that this server does not have.
    """
    name, _, digits = version.rpartition(":")
    for model in service.names.models():
        if digits in {version_of(model), model} and name in {"", f"laur/{model}"}:
            return wishes.checkpoint(service, model)
        if version == f"laur/{model}":
            return wishes.checkpoint(service, model)
    raise RecipeError(f"no version {version[:80]!r} here; GET /v1/models lists the models")


def stamp(at: float) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _status(records: list[Record]) -> Status:
    states = {record.state for record in records}
    if State.FAILED in states:
        return "failed"
    if State.CANCELLED in states:
        return "canceled"
    if states == {State.DONE}:
        return "succeeded"
    return "starting" if states == {State.QUEUED} else "processing"


async def _output(service: Service, record: Record, base: str, data: bool) -> str:
    assert record.result is not None
    if not data:
        return service.link(f"{base}/v1/pictures/{record.result.key}")
    content = await service.content(record.result)
    return f"data:{record.result.media_type};base64,{base64.b64encode(content).decode()}"


def _logs(records: list[Record]) -> str:
    """A line of progress as clients look for it, and one for each picture that is not shown as it was drawn."""
    hidden = [record.result.blurred if record.result else None for record in records]
    notes = "".join(f"output {n} is blurred: {why}\n" for n, why in enumerate(hidden) if why)
    done, all_ = sum(record.step for record in records), sum(record.steps for record in records)
    if not all_:
        return notes
    percent = 100 * done // all_
    return f"{percent:3d}%|{'█' * (percent // 10):<10}| {done}/{all_} [00:00<00:00,  0.00it/s]\n{notes}"


def _urls(base: str, number: str, replicate: bool) -> dict[str, str]:
    place = f"{base}/v1/predictions/{number}" if replicate else f"{base}/predictions/{number}"
    return {"get": f"{base}/v1/predictions/{number}", "cancel": f"{place}/cancel"}
