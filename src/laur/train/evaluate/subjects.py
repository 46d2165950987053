"""What is drawn: the teacher twice, DDIM in four steps as a yardstick, and the student in few."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from laur.core.errors import TrainingError
from laur.core.recipe import AdapterRef, Recipe
from laur.core.sampler import DISTILLED

if TYPE_CHECKING:
    from laur.core.checkpoint import Checkpoint
    from laur.train.evaluate.prompts import Prompt

FIRST_SEED = 1000
OTHER_SEEDS = 50_000_000
"""How far the teacher's second set of seeds lies from the first."""
TRY = 100_000
"""How far the seeds of a prompt's tries lie apart; so many prompts at most."""
YARDSTICK_STEPS = 4

Role = Literal["teacher", "reference", "yardstick", "student"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One row of the table."""

    name: str
    role: Role
    """reference: the teacher from other seeds, which all the others are measured against. teacher: the same from the
    seeds that all the others are drawn from; what it shows against the reference is the noise floor."""
    steps: int
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of its recipes, but for prompt, seed and size."""
    seeds: int = FIRST_SEED

    def recipes(self, prompts: Sequence[Prompt], tries: int, size: tuple[int, int] | None) -> list[Recipe]:
        """Of all prompts, a prompt's tries one after the other; more prompts or tries leave the others as they are."""
        width, height = size or (None, None)
        return [
            Recipe(
                prompt=prompt.text,
                seed=self.seeds + number + TRY * again,
                steps=self.steps,
                width=width,
                height=height,
                **self.fields,
            )
            for number, prompt in enumerate(prompts)
            for again in range(tries)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which models, and how they are drawn from."""

    model: str
    steps: tuple[int, ...]
    adapters: tuple[AdapterRef, ...] | None = None
    """Of the student; None takes the checkpoint's own."""
    sampler: str = "lcm"
    etas: tuple[float, ...] = ()
    """Of the sampler: students of their own beside those of its usual one."""
    guidance: float | None = None
    """Of the student; None takes what it recommends."""
    teacher: str | None = None
    """Another checkpoint; None takes the model itself without adapters."""
    teacher_adapters: tuple[AdapterRef, ...] = ()
    """What the teacher keeps, a style say."""
    teacher_steps: int | None = None
    teacher_guidance: float | None = None


def subjects(plan: Plan, teacher: Checkpoint, student: Checkpoint) -> tuple[Subject, ...]:
    """Teacher, reference, yardstick and students, in this order. Errors: TrainingError."""
    if plan.sampler not in DISTILLED:
        raise TrainingError(f"--sampler is {plan.sampler}; few steps are drawn with {' or '.join(sorted(DISTILLED))}")
    if teacher.is_lcm:
        raise TrainingError(f"{teacher.name} is itself a distilled model; name what it was distilled from: --teacher")
    has_own = student.is_lcm or plan.teacher is not None or bool(student.defaults.adapters)
    if plan.adapters is None and not has_own:
        raise TrainingError(f"{student.name} has no acceleration of its own; name its LCM-LoRA with --adapter")
    shared = {
        "checkpoint": plan.teacher or plan.model,
        "adapters": plan.teacher_adapters,
        "sampler": "ddim",
        "guidance": plan.teacher_guidance or teacher.defaults.guidance,
    }
    few: dict[str, Any] = {"checkpoint": plan.model, "sampler": plan.sampler, "adapters": plan.adapters}
    if plan.guidance is not None:
        few["guidance"] = plan.guidance
    long = plan.teacher_steps or teacher.defaults.steps
    return (
        Subject(name=f"teacher, {long} steps", role="teacher", steps=long, fields=shared),
        Subject(
            name="teacher, other seeds", role="reference", steps=long, fields=shared, seeds=FIRST_SEED + OTHER_SEEDS
        ),
        Subject(name=f"DDIM, {YARDSTICK_STEPS} steps", role="yardstick", steps=YARDSTICK_STEPS, fields=shared),
        *_students(plan, few),
    )


def _students(plan: Plan, few: Mapping[str, Any]) -> Iterator[Subject]:
    """A single step adds no noise, and has no eta."""
    for eta in (None, *plan.etas):
        for n in plan.steps:
            if eta is not None and n == 1:
                continue
            name = f"{plan.sampler.upper()}, {n} step{'s' if n > 1 else ''}"
            more = "" if eta is None else f", eta {eta:g}"
            fields = few if eta is None else {**few, "eta": eta}
            yield Subject(name=name + more, role="student", steps=n, fields=fields)
