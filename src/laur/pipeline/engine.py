"""The Engine: continuous batching over Plans.

`submit` queues a plan, every `step` admits what was queued, runs one denoiser call for one lane and emits events,
`cancel` and `replace` act between steps. One thread owns an Engine. `run` and `stream` stand on these four.

The same plan gives the same picture alone or in any company: rows never see each other, text is padded per request,
and noise belongs to the picture.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from laur.core.errors import AdapterError, LaurError, NumericalError, ResourceError
from laur.core.recipe import DEFAULT_CHECKPOINT, Recipe
from laur.pipeline import memory
from laur.pipeline.device import choose
from laur.pipeline.events import END, Admitted, Call, Cancelled, Done, Event, Failed, Progress, Ticket
from laur.pipeline.foresight import foresee
from laur.pipeline.lanes import Lanes, RowCap
from laur.pipeline.library import Library
from laur.pipeline.regions import predict
from laur.pipeline.resolve import Resolved, resolve
from laur.pipeline.running import Running
from laur.pipeline.sharing import is_enough, turns

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from laur.core.denoiser import Row
    from laur.core.plan import Plan
    from laur.render.picture import Picture

CPU_ROW_PIXELS = 8 * 32 * 32
"""Eight rows of 256x256: beyond it two cores gain nothing and wait longer for each step."""
GPU_ROW_PIXELS = 32 * 64 * 64


class Engine:
    """Draws Plans, many at a time."""

    def __init__(
        self,
        checkpoint: str = DEFAULT_CHECKPOINT,
        *,
        device: str | None = None,
        dtype: str | None = None,
        channels_last: bool | None = None,
        prediction: str | None = None,
        row_pixels: int | RowCap | None = None,
        previews: bool = False,
        library: Library | None = None,
        budget: int | None = None,
        free_rows: RowCap | None = None,
    ) -> None:
        """`checkpoint` and `prediction` stand in for recipes that leave theirs at the default.

        `free_rows` is how many rows of a size take hardly longer than one, where it was measured.
        `budget` is in bytes: what adapters, text states and texts' keys and values may take, unless a `library` says.

        Errors: NotFoundError, CheckpointError.
        """
        self.library = library or Library(choose(device, dtype, channels_last), budget=budget)
        self.checkpoint = checkpoint
        self.prediction = prediction
        self.previews = previews
        self.library.checkpoint(checkpoint, prediction=prediction)
        on_cpu = self.library.placement.device.type == "cpu"
        if free_rows is None and not on_cpu:
            free_rows = _free_on_gpus
        self._lanes = Lanes(row_pixels or (CPU_ROW_PIXELS if on_cpu else GPU_ROW_PIXELS), free_rows)
        self._numbers = 0
        self._queue: list[Ticket] = []
        self._active: dict[Ticket, Running] = {}
        self._ended: list[Event] = []

    # ------------------------------------------------------------------ plans

    def resolve(self, recipe: Recipe) -> Resolved:
        """Plan a recipe for this engine; one without a checkpoint takes the engine's."""
        if recipe.checkpoint is None:
            recipe = recipe.replace(checkpoint=self.checkpoint)
        if recipe.prediction is None and recipe.checkpoint == self.checkpoint and self.prediction is not None:
            recipe = recipe.replace(prediction=self.prediction)
        return resolve(recipe, self.library)

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """What to know of a plan once its adapters are read, which this waits for: whether their mix is too strong."""
        return self.library.mixes.notes(plan)

    def submit(self, plan: Plan, recipe: Recipe, owner: Hashable = None) -> Ticket:
        """Queue a plan; it takes part from the next `step` on. `recipe` (filled) goes into the finished picture.

        Several owners share the Engine, see `laur.pipeline.sharing`; their pictures may come some steps after the last
        denoiser call.
        """
        self._numbers += 1
        ticket = Ticket(self._numbers, plan, recipe, owner)
        foresee(self.library, plan)
        self._queue.append(ticket)  # last: a ticket that nobody gets must not be drawn
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Stop a ticket between steps; False where it had ended already. `Cancelled` comes with the next `step`."""
        if ticket in self._queue:
            self._queue.remove(ticket)
        elif self._active.pop(ticket, None) is None:
            return False
        self._ended.append(Cancelled(ticket))
        return True

    def replace(self, ticket: Ticket, plan: Plan, recipe: Recipe) -> Ticket:
        """Drop what a ticket was drawing and draw `plan` in its place (live drawing). Emits no `Cancelled`."""
        fresh = Ticket(ticket.number, plan, recipe, ticket.owner)
        if ticket in self._queue:
            self._queue[self._queue.index(ticket)] = fresh
        else:
            self._active.pop(ticket, None)
            self._queue.append(fresh)
        return fresh

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._queue or self._active or self._ended)

    # ------------------------------------------------------------------- step

    def step(self) -> list[Event]:
        """Admit what was queued, run one denoiser call, decode what it finished. Returns what happened, in order."""
        events, self._ended = self._ended, []
        try:
            events += self._admit()
        except BaseException:
            self._ended = events + self._ended  # what has happened is told with the next step
            raise
        began = time.perf_counter()
        batch = self._lanes.pick(self._active.values())
        if batch:
            events += self._advance(batch)
        return events + self._decode(time.perf_counter() - began)

    def _admit(self) -> list[Event]:
        queued, self._queue = self._queue, []
        events: list[Event] = []
        for place, ticket in enumerate(queued):
            began = time.perf_counter()
            try:
                self._active[ticket] = running = Running(ticket, self.library)
                events.append(Admitted(ticket, began, running.text_seconds))
            except LaurError as error:
                events.append(Failed(ticket, error))
            except Exception as error:
                if memory.is_exhausted(error):
                    events.append(Failed(ticket, _no_room(ticket.plan)))
                    continue
                self._queue = [*queued[place + 1 :], *self._queue]  # a fault of one is not the end of the others
                self._ended = events
                raise
        return events

    def _advance(self, batch: list[Running]) -> list[Event]:
        stage = batch[0].stage
        batch, groups, events = self._rows(batch)
        if not batch:
            return events
        rows = [row for group in groups for row in group]
        began = time.perf_counter()
        try:
            specs = [spec for running in batch for spec in running.stage.rows]
            predictions = predict(self.library, stage, specs, rows)
        except LaurError as error:
            return [*events, *(self._fail(running, error) for running in batch)]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if memory.is_exhausted(error):
                return events + self._smaller(batch)
            if not batch[0].changes_rows:  # the same for all: a lane shares its adapters
                raise
            return events + self._alone(batch, error)
        finite = predictions.flatten(1).isfinite().all(1).tolist()  # on a GPU this waits for the call to end
        call = Call(began, time.perf_counter(), len(rows), self._lanes.cap(batch[0]))
        self._lanes.took(batch, call.ended - call.began)
        sound: list[tuple[Running, Tensor]] = []
        start = 0
        for running, group in zip(batch, groups, strict=True):
            part = predictions[start : start + len(group)]
            start += len(group)
            if all(finite[start - len(group) : start]):
                sound.append((running, part))
            else:
                events.append(self._fail(running, self._explain(running, group)))
        return events + self._take(sound, call)

    def _smaller(self, batch: list[Running]) -> list[Event]:
        """After memory ran out in a call: the same step in two halves, or the end of a ticket that is alone."""
        if len(batch) == 1:
            return [self._fail(batch[0], _no_room(batch[0].ticket.plan))]
        middle = len(batch) // 2
        return self._advance(batch[:middle]) + self._advance(batch[middle:])

    def _alone(self, batch: list[Running], error: Exception) -> list[Event]:
        """After a call failed on rows that adapters had changed: each ticket by itself, so that only the faulty end."""
        if len(batch) > 1:
            return [event for running in batch for event in self._advance([running])]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        fault = f"the network cannot take what an adapter's rows, tokens or residuals gave: {reason}"
        return [self._fail(batch[0], AdapterError(fault))]

    def _rows(self, batch: list[Running]) -> tuple[list[Running], list[list[Row]], list[Event]]:
        """The tickets whose rows could be made, with these; the others fail."""
        ready: list[Running] = []
        groups: list[list[Row]] = []
        events: list[Event] = []
        for running in batch:
            try:
                groups.append(running.rows())
                ready.append(running)
            except LaurError as error:
                events.append(self._fail(running, error))
        return ready, groups, events

    def _take(self, sound: list[tuple[Running, Tensor]], call: Call) -> list[Event]:
        """Combine, step and record."""
        events: list[Event] = []
        for running, part in sound:
            try:
                events.append(self._step(running, part, call))
            except LaurError as error:
                events.append(self._fail(running, error))
            except (RuntimeError, MemoryError) as error:  # a next stage is placed here
                if not memory.is_exhausted(error):
                    raise
                events.append(self._fail(running, _no_room(running.ticket.plan)))
        return events

    def _step(self, running: Running, part: Tensor, call: Call) -> Progress:
        """One ticket's step, from its rows' predictions. LaurError where a hook fails or the next stage has a fault."""
        import torch

        from laur.core.guidance import combine
        from laur.core.sampler.apply import advance

        with torch.inference_mode():
            step, checkpoint = running.step, running.stage.checkpoint
            prediction = combine(part, running.stage.combine, running.shares)
            latent, x0 = advance(step, running.latent, prediction, running.noise(), running.x0)
            if running.has_hooks and step.q:  # where q is 0, x0 is the latent itself
                x0 = running.hooked(x0)
                prediction = (x0 - step.p * running.latent) / step.q
                latent, _ = advance(step, running.latent, prediction, running.noise(), running.x0)
                if not bool(latent.isfinite().all()):
                    raise NumericalError(
                        f"step {running.steps_done + 1}: an adapter's on_x0 gave NaN or infinity; lower its weight"
                    )
        running.advance(latent, x0)  # outside: what a next stage loads is no part of the inference
        return self._progress(running, x0, checkpoint, call)

    def _progress(self, running: Running, x0: Tensor, checkpoint: str, call: Call) -> Progress:
        rgb = self.library.preview(checkpoint) if self.previews else None
        seen, plan = running.seen(x0), running.ticket.plan
        return Progress(running.ticket, running.steps_done, plan.steps, seen, rgb, call)

    def _decode(self, call: float) -> list[Event]:
        """Those that are through, for about as long as the step's call took; not of owners who wait for others."""
        events: list[Event] = []
        since, waiting = time.perf_counter(), self._lanes.waiting
        through = (running for running in self._active.values() if running.finished)
        for running in turns(running for running in through if running.ticket.owner not in waiting):
            if events and is_enough(running, call, since, brief=self._lanes.brief):
                break
            began = time.perf_counter()
            try:
                picture = self._picture(running)
                del self._active[running.ticket]
                events.append(Done(running.ticket, picture, began, running.latent))
            except LaurError as error:
                events.append(self._fail(running, error))
            except (RuntimeError, MemoryError) as error:
                if not memory.is_exhausted(error):
                    raise
                events.append(self._fail(running, _no_room(running.ticket.plan)))
        return events

    def _picture(self, running: Running) -> Picture:
        from laur.render.picture import Picture

        plan = running.ticket.plan
        pixels = self.library.decoder(plan.stages[-1].checkpoint).decode(running.latent[None])[0]
        top, left = (pixels.shape[0] - plan.height) // 2, (pixels.shape[1] - plan.width) // 2
        cropped = pixels[top : top + plan.height, left : left + plan.width].contiguous()
        provenance = self.library.provenance(plan, running.ticket.recipe)
        return Picture(pixels=running.finish(cropped.numpy()), recipe=running.ticket.recipe, provenance=provenance)

    def _fail(self, running: Running, error: LaurError) -> Failed:
        self._active.pop(running.ticket, None)
        return Failed(running.ticket, error)

    def _explain(self, running: Running, rows: list[Row]) -> NumericalError:
        """Name the first layer that gave NaN or infinity for these rows."""
        stage = running.stage
        try:
            where = self.library.locate(stage.checkpoint, stage.adapters, rows)
        except LaurError:  # looking closer reads the adapters' files again
            where = "a layer that could not be looked for"
        return NumericalError(
            f"step {running.steps_done + 1} gave NaN or infinity, first in {where}; "
            "try --dtype float32, or lower the adapter weights"
        )

    # ------------------------------------------------------------ run, stream

    def stream(self, recipes: Iterable[Recipe | Resolved]) -> Iterator[Event]:
        """Draw recipes together and yield what happens; closing the iterator cancels what is left.

        Errors of a single recipe come as `Failed`; a recipe that cannot be planned raises at once, before any drawing.
        """
        jobs = [recipe if isinstance(recipe, Resolved) else self.resolve(recipe) for recipe in recipes]
        going = {self.submit(job.plan, job.recipe).number for job in jobs}  # a replaced ticket keeps its number
        try:
            while going:
                for event in self.step():
                    if isinstance(event, END):
                        going.discard(event.ticket.number)
                    yield event
        finally:
            self._queue = [ticket for ticket in self._queue if ticket.number not in going]
            for ticket in [ticket for ticket in self._active if ticket.number in going]:
                del self._active[ticket]

    def pictures(self, recipes: Iterable[Recipe | Resolved]) -> list[Picture]:
        """Draw recipes together; pictures with their recipes, in order. The first failure raises."""
        jobs = [recipe if isinstance(recipe, Resolved) else self.resolve(recipe) for recipe in recipes]
        own = range(self._numbers + 1, self._numbers + 1 + len(jobs))  # others may be under way in this engine
        done: dict[int, Picture] = {}
        for event in self.stream(jobs):
            if isinstance(event, Failed) and event.ticket.number in own:
                raise event.error
            if isinstance(event, Done):
                done[event.ticket.number] = event.picture
        return [done[number] for number in own]

    def run(self, recipes: Iterable[Recipe | Resolved]) -> list[Image]:
        """Draw recipes together; PIL images, in order. The first failure raises."""
        return [picture.image for picture in self.pictures(recipes)]

    def __repr__(self) -> str:
        place: Any = self.library.placement
        return f"Engine({self.checkpoint!r}, device={str(place.device)!r}, dtype={place.dtype_name!r})"


def _no_room(plan: Plan) -> ResourceError:
    return ResourceError(f"memory ran out while drawing {plan.width}x{plan.height}; use a smaller size")


def _free_on_gpus(pixels: int) -> int:
    """What is assumed where nothing was measured: a quarter of a full call."""
    return max(1, GPU_ROW_PIXELS // 4 // pixels)
