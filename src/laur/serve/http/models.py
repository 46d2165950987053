"""The bodies of Laur's own API."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from laur.core.recipe import PROMPT_LIMIT, SEED_LIMIT, SIZE_LIMIT, STEPS_LIMIT, AdapterRef, Recipe
from laur.serve.http.pictures import Picture
from laur.serve.job import HIGHEST, LOWEST, NORMAL, Record

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Content = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Strict(BaseModel):
    """Unknown fields are refused, and a text is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AdapterBody(Strict):
    """An adapter and how much of it."""

    name: Name
    weight: float = Field(1.0, ge=-100.0, le=100.0)
    sha256: str | None = Field(None, max_length=64)
    steps: list[float] | None = Field(None, min_length=2, max_length=2, description="The part of the run, 0 to 1.")
    region: str | None = Field(None, max_length=80, pattern=r"^[a-z0-9.,:]+$", description="left …, x0,y0,x1,y1.")
    by_block: dict[str, float] | None = Field(None, max_length=64, description="Factors of the weight: mid, up1, in4 …")
    phases: list[list[float]] | None = Field(
        None, max_length=64, description="Factors of the weight over the run: [from, factor] each."
    )

    def ref(self) -> AdapterRef:
        """The same in a Recipe. Raises RecipeError for what fields alone cannot tell."""
        return AdapterRef.of(self.model_dump(exclude_none=True))


class RecipeBody(Strict):
    """A wish for one picture. What is left out is chosen for the checkpoint and recorded."""

    prompt: str = Field(min_length=1, max_length=PROMPT_LIMIT, pattern=r"\S")
    negative_prompt: str = Field("", max_length=PROMPT_LIMIT)
    seed: int | None = Field(None, ge=0, le=SEED_LIMIT)
    steps: int | None = Field(None, ge=1, le=STEPS_LIMIT)
    guidance: float | None = Field(None, ge=0.0, le=100.0)
    width: int | None = Field(None, ge=16, le=SIZE_LIMIT)
    height: int | None = Field(None, ge=16, le=SIZE_LIMIT)
    sampler: Literal["lcm", "tcd", "ddim", "euler", "dpm++2m"] | None = None
    checkpoint: Name | None = None
    checkpoint_sha256: str | None = Field(None, min_length=1, max_length=64)
    adapters: list[AdapterBody] | None = Field(None, max_length=32)
    style: Name | None = None
    balance: Literal["style"] | None = None
    clip_skip: int = Field(1, ge=1, le=12)
    guidance_rescale: float = Field(0.0, ge=0.0, le=1.0)
    timesteps: list[int] | None = Field(None, min_length=1, max_length=STEPS_LIMIT)
    original_inference_steps: int | None = Field(None, ge=1, le=STEPS_LIMIT)
    eta: float | None = Field(None, ge=0.0, le=1.0)
    prediction: Literal["epsilon", "v_prediction", "sample"] | None = None
    refiner: Name | None = None
    refiner_sha256: str | None = Field(None, min_length=1, max_length=64)
    refiner_start: float | None = Field(None, ge=0.01, le=0.99)
    image: Picture | None = None
    strength: float | None = Field(None, ge=0.0, le=1.0)
    mask: Picture | None = None
    mask_blur: float | None = Field(None, ge=0.0, le=256.0)
    paste_back: bool | None = None

    def recipe(self) -> Recipe:
        """The same as a Recipe. Raises RecipeError for what fields alone cannot tell."""
        return Recipe.from_dict(self.model_dump(exclude_none=True))


class JobBody(Strict):
    """A recipe and how it is to be worked on."""

    recipe: RecipeBody
    id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="The same id twice is one job: what a client sends again after a broken connection.",
    )
    priority: int = Field(NORMAL, ge=HIGHEST, le=LOWEST, description="0 first, 9 last, among your own jobs.")
    deadline: float | None = Field(None, gt=0, le=30 * 24 * 3600, description="Seconds from now.")
    format: Literal["png", "jpeg", "webp", "avif", "tiff"] = "png"
    metadata: bool = Field(True, description="Whether recipe and provenance stand in the file.")
    previews: bool = Field(False, description="Whether small previews come with the events.")


class ResultView(BaseModel):
    """A finished file."""

    url: str
    media_type: str
    size: int
    sha256: Hash
    width: int
    height: int
    recipe: dict[str, Any] = Field(description="Filled in: the same recipe gives the same picture.")
    warnings: list[str]
    cached: bool
    blurred: str | None = Field(None, description="Why it shows colours only.")


class FailureView(BaseModel):
    """Why a job failed."""

    kind: str
    message: str
    status: int


class JobView(BaseModel):
    """A job and what has become of it."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    attempts: int
    step: int
    steps: int
    priority: int
    created: float = Field(description="Unix seconds.")
    started: float | None
    finished: float | None
    deadline: float | None
    recipe: dict[str, Any] = Field(description="As asked for.")
    result: ResultView | None
    failure: FailureView | None

    @classmethod
    def of(cls, record: Record) -> Self:
        """From a queue's record."""
        job, result, failure = record.job, record.result, record.failure
        return cls(
            id=job.id,
            state=record.state.value,
            attempts=record.attempts,
            step=record.step,
            steps=record.steps,
            priority=job.priority,
            created=job.created,
            started=record.started,
            finished=record.finished,
            deadline=job.deadline,
            recipe=job.recipe.to_dict(),
            result=None
            if result is None
            else ResultView(
                url=f"/v1/jobs/{job.id}/picture",
                recipe=result.recipe.to_dict(),
                warnings=list(result.warnings),
                **{name: getattr(result, name) for name in _SAME},
            ),
            failure=None
            if failure is None
            else FailureView(kind=failure.kind, message=failure.message, status=failure.status),
        )


_SAME = ("media_type", "size", "sha256", "width", "height", "cached", "blurred")


class QueueView(BaseModel):
    """A queue at one moment."""

    waiting: int
    running: int
    oldest: float = Field(description="Seconds that the oldest waiting job has waited.")
    parked: int
