"""Recipes become files: plan, load, draw, and save each picture as soon as it is finished."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.cli.best import Contest, judge
from laur.cli.console import interrupts_held, one_line
from laur.core.errors import LaurError
from laur.core.recipe import DEFAULT_CHECKPOINT
from laur.utils.imports import collector_paused

if TYPE_CHECKING:
    from torch import Tensor

    from laur.cli.best import Winner
    from laur.cli.display import Display
    from laur.core.recipe import Recipe
    from laur.input.image import InputPicture
    from laur.pipeline.engine import Engine
    from laur.pipeline.events import Event, Progress, Ticket
    from laur.pipeline.resolve import Resolved
    from laur.render.output import Destination
    from laur.render.picture import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `laur generate` was asked for, checked as far as it can be without the model."""

    recipe: Recipe
    count: int
    destination: Destination
    metadata: bool = True
    inputs: tuple[InputPicture, ...] = ()
    """The pictures that the recipe names."""
    device: str | None = None
    dtype: str | None = None
    variant: str | None = None
    previews: bool = False
    """Whether steps are shown while they are done."""
    keep_steps: bool = False
    """Whether pictures keep what was predicted at each of their steps."""
    best_of: int = 1
    """Seeds that are drawn for each picture; the best is kept."""
    scorer: str | None = None
    """Who says which that is; None takes the one that knows the model's kind of picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A finished picture and its file."""

    path: Path
    picture: Picture
    sampling: float
    """Seconds of the steps that it took part in, alone or with others."""
    x0: tuple[Tensor, ...] = ()
    """The latent predicted at each step, (C, h, w), where the order asked to keep them."""
    scores: dict[int, float] = field(default_factory=dict[int, float])
    """Of the seeds among which this one was the best."""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        recipe = self.picture.recipe
        values: dict[str, Any] = {"path": str(self.path), "seed": recipe.seed, "recipe_hash": recipe.hash}
        return {**values, "scores": {str(k): round(v, 6) for k, v in self.scores.items()}} if self.scores else values


@dataclass(slots=True)
class Report:
    """What came of an order; filled while it runs, so that an interruption still tells what is finished."""

    saved: list[Saved] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sheets: list[dict[str, str]] = field(default_factory=list)
    """Further files: kind (grid, strip, attention) and path."""
    failures: list[LaurError] = field(default_factory=list)
    """Of pictures that could not be finished, where others could."""


@collector_paused()
def open_engine(order: Order) -> Engine:
    """An engine for the order's model. Adapters come first, as a wrong name of one is found sooner than a model."""
    from laur.pipeline.chosen import check_name
    from laur.pipeline.device import choose
    from laur.pipeline.engine import Engine
    from laur.pipeline.library import Library

    recipe = order.recipe
    library = Library(choose(order.device, order.dtype))
    for picture in order.inputs:
        library.inputs.add(picture)
    for name in [ref.name for ref in recipe.adapters or ()] + ([recipe.style] if recipe.style else []):
        check_name(name, library)
    name = recipe.checkpoint or DEFAULT_CHECKPOINT
    library.checkpoint(name, prediction=recipe.prediction, variant=order.variant)
    return Engine(name, prediction=recipe.prediction, library=library, previews=order.previews)


@collector_paused()
def plan(engine: Engine, recipe: Recipe, count: int) -> list[Resolved]:
    """`count` plans of a recipe; picture i has seed + i."""
    from laur.pipeline.series import series

    return series(engine, recipe, count)


@collector_paused()
def load(engine: Engine, job: Resolved) -> None:
    """Read and place all weights of a plan now, so that what follows is drawing alone."""
    for stage in job.plan.stages:
        engine.library.ready(stage)
    engine.library.decoder(job.plan.stages[-1].checkpoint)
    if engine.previews:
        engine.library.preview(job.plan.stages[0].checkpoint)


class Drawing:
    """One order on its way."""

    def __init__(self, order: Order, display: Display, report: Report, begun: float) -> None:
        """`begun` is when the command started, by `time.perf_counter`."""
        self.order = order
        self.display = display
        self.report = report
        self._begun = begun
        self._numbers: dict[Ticket, int] = {}
        self._sampling: dict[Ticket, float] = {}
        self._step_began = 0.0
        self._x0: dict[Ticket, list[Tensor]] = {}
        self._contest: Contest | None = None

    def run(self) -> Engine:
        """Draw and save everything. Raises LaurError before anything is drawn, or if a file cannot be written."""
        order = self.order
        self.display.busy(f"loading {order.recipe.checkpoint or DEFAULT_CHECKPOINT}")
        engine = open_engine(order)
        if order.best_of > 1:
            model = order.recipe.checkpoint or DEFAULT_CHECKPOINT
            self._contest = Contest(judge(engine, model, order.recipe.prediction, order.scorer), order.best_of)
        jobs = plan(engine, order.recipe, order.count * order.best_of)
        for text in dict.fromkeys(text for job in jobs for text in (*job.warnings, *engine.notes(job.plan))):
            self.report.warnings.append(one_line(text))
            self.display.warn(text)
        load(engine, jobs[0])
        self.display.begin(sum(job.plan.steps for job in jobs), len(jobs))
        self._numbers = {engine.submit(job.plan, job.recipe): index for index, job in enumerate(jobs)}
        while engine.busy:
            self._step_began = time.perf_counter()
            events = engine.step()
            with interrupts_held():  # what is finished by now is saved whole, whoever presses Ctrl-C
                for event in events:
                    self._take(event)
        self.report.saved.sort(key=lambda saved: saved.picture.recipe.seed or 0)
        return engine

    def _take(self, event: Event) -> None:
        from laur.pipeline.events import Admitted, Done, Failed, Progress

        match event:
            case Admitted():
                self._sampling[event.ticket] = 0.0
                self._step_began = event.at  # encoding the text is not sampling
            case Progress():
                self._progress(event)
            case Done():
                self._finish(event.ticket, event.picture)
            case Failed():
                self.report.failures.append(event.error)
                if self.order.count * self.order.best_of > 1:
                    self.display.warn(f"picture {self._numbers[event.ticket] + 1} failed: {event.error}")
                if self._contest is not None:
                    self._keep(self._contest.drop(self._numbers[event.ticket]))
            case _:
                pass

    def _progress(self, event: Progress) -> None:
        self._sampling[event.ticket] += event.at - self._step_began
        if self.order.keep_steps:
            self._x0.setdefault(event.ticket, []).append(event.x0)
        self.display.step(self._numbers[event.ticket], event.preview())

    def _finish(self, ticket: Ticket, picture: Picture) -> None:
        if self._contest is None:
            self._save(ticket, picture)
        else:
            self._keep(self._contest.enter(self._numbers[ticket], ticket, picture))

    def _keep(self, winner: Winner | None) -> None:
        if winner is not None:
            self.display.tell(winner.line)
            self._save(winner.ticket, winner.picture, winner.scores)

    def _save(self, ticket: Ticket, picture: Picture, scores: dict[int, float] | None = None) -> None:
        order = self.order
        path = order.destination.save(picture, self._numbers[ticket] // order.best_of, metadata=order.metadata)
        saved = Saved(
            path=path,
            picture=picture,
            sampling=self._sampling[ticket],
            x0=tuple(self._x0.pop(ticket, ())),
            scores=scores or {},
        )
        self.report.saved.append(saved)
        self.display.saved(saved, time.perf_counter() - self._begun)
