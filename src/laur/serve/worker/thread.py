"""The thread that owns an Engine: it plans, steps and cancels, and tells the event loop what happened.

A fault that is none of a recipe's own ends the batch that met it. Its jobs are then drawn one after another, so that
only the one which cannot be drawn fails. Where several in a row cannot, and none is drawn, it is the Engine that is
broken; then, and after any fault outside a job, the thread ends with its `fault` set.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from laur.core.errors import LaurError, UnavailableError
from laur.core.recipe import Recipe
from laur.pipeline import foresight
from laur.pipeline.events import Admitted, Cancelled, Done, Event, Failed, Progress, Ticket
from laur.serve.inputs import refs_of, require
from laur.serve.job import Failure
from laur.serve.observe.logs import about
from laur.serve.worker.keys import file_key
from laur.serve.worker.messages import Broke, Drawn, Planned, Prepared, Stepped, Told
from laur.serve.worker.pulse import Pulse
from laur.serve.worker.residents import Residents

if TYPE_CHECKING:
    from laur.input.image import InputPicture
    from laur.pipeline.engine import Engine
    from laur.pipeline.resolve import Resolved

LOG = logging.getLogger(__name__)
Deliver = Callable[[list[Told]], None]
BROKEN = 3
"""Jobs that meet an unexpected fault alone, one after another with none drawn between: then it is not the jobs'."""

GO = 0.005
"""Seconds that a step waits for the word to draw what was planned just before it."""


@dataclass(slots=True)
class _Entry:
    """A job in this thread."""

    recipe: Recipe
    previews: bool
    pictures: tuple[InputPicture, ...] = ()
    """Held, so that the Engine finds them for as long as this job waits."""
    resolved: Resolved | None = None
    go: bool = False
    ticket: Ticket | None = None
    suspect: bool = False
    """Was in a batch that broke: drawn alone from now on."""
    delayed: bool = False
    """Waits for its adapters to be read while others are drawn."""
    owner: str | None = None
    """Whose it is."""
    notes: tuple[str, ...] = ()
    """What its adapters say once they are read."""


class EngineThread:
    """Owns an Engine. Its methods may be called from any thread; what they lead to arrives at `deliver`."""

    def __init__(self, make: Callable[[], Engine], deliver: Deliver, gone: Callable[[], None]) -> None:
        """`make` opens the Engine, in the thread; `deliver` is called there with what happened, in order, and `gone`
        once the thread ends by a fault."""
        self._make, self._deliver, self._gone = make, deliver, gone
        self._entries: dict[str, _Entry] = {}
        self._commands: deque[Callable[[Engine], list[Told]]] = deque()
        self._bell = threading.Event()
        self._stopping = False
        self._full = False
        """Whether the last call had no row left for another."""
        self._broken: set[str] = set()
        """What met an unexpected fault alone since a step was last done."""
        self._thread = threading.Thread(target=self._run, name="laur-engine", daemon=True)
        self.loaded = threading.Event()
        self.fault: Exception | None = None
        """Why the Engine could not be opened, or why the thread ended by itself."""
        self.engine: Engine | None = None
        """To be looked at from outside, not to be used."""
        self.residents = Residents()
        self.pulse = Pulse(beat=time.monotonic())

    def start(self) -> None:
        """Begin; `loaded` is set once the Engine is open, or `fault` says why not."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step that runs now. Does not wait."""
        self._stopping = True
        self._bell.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def plan(
        self,
        id: str,
        recipe: Recipe,
        *,
        previews: bool = False,
        pictures: Sequence[InputPicture] = (),
        owner: str | None = None,
    ) -> None:
        """Resolve a recipe, which may use these pictures and no others. `Planned` or `Broke` follows."""
        self._ask(lambda engine: self._plan(engine, id, _Entry(recipe, previews, tuple(pictures), owner=owner)))

    def foresee(self, recipe: Recipe) -> None:
        """Have the adapters read of a job that may come. Nothing follows."""
        self._ask(lambda engine: self._foresee(engine, recipe))

    def go(self, id: str) -> None:
        """Draw what was planned. `Stepped` and in the end `Drawn` or `Broke` follow."""
        self._ask(lambda engine: self._admit(engine, id))

    def cancel(self, id: str) -> None:
        """Forget a job, between steps; nothing more is told of it."""
        self._ask(lambda engine: self._forget(engine, id))

    # ------------------------------------------------------------ in the thread

    def _ask(self, command: Callable[[Engine], list[Told]]) -> None:
        self._commands.append(command)
        self._bell.set()

    def _run(self) -> None:
        try:
            self.engine = engine = self._make()
        except Exception as error:  # whatever it was, the process must not wait for ever
            self.fault = error
            self.loaded.set()
            return
        self.loaded.set()
        try:
            while not self._stopping:
                self._turn(engine)
        except BaseException as error:  # whatever it was: a thread that ends in silence leaves its jobs waiting
            LOG.critical("the engine's thread ends by a fault", exc_info=error)
            if not isinstance(error, LaurError):
                error = UnavailableError(f"the engine ended by an unexpected {type(error).__name__}; see its log")
            self.fault = error
            self._gone()

    def _turn(self, engine: Engine) -> None:
        """What was asked for, then one step, or a rest where there is none to do."""
        self._beat(working=True)
        if self._obey(engine) and engine.busy and not self._commands and not self._full:
            self._bell.wait(GO)  # else what was planned just now would sit out a step
        if self._commands:
            self._obey(engine)
        if engine.busy and (told := self._step(engine)):
            self._deliver(told)
        if not engine.busy and not self._commands:
            self._beat(working=False)
            self._bell.wait(1.0)

    def _obey(self, engine: Engine) -> bool:
        """Do what was asked for, and tell what came of it; whether anything was planned."""
        self._bell.clear()
        told: list[Told] = []
        while self._commands:
            told += self._commands.popleft()(engine)
        if told:
            self._deliver(told)
        return any(isinstance(item, Planned) for item in told)

    def _beat(self, *, working: bool) -> None:
        self.pulse.beat, self.pulse.working = time.monotonic(), working

    def _plan(self, engine: Engine, id: str, entry: _Entry) -> list[Told]:
        began = time.perf_counter()
        try:
            for picture in entry.pictures:
                engine.library.inputs.add(picture)
            entry.resolved = resolved = engine.resolve(entry.recipe)
            require(refs_of(resolved.recipe), entry.pictures)
            key = file_key(engine.library.provenance(resolved.plan, resolved.recipe), resolved.recipe)
            self.residents.learn(entry.recipe, resolved.recipe, resolved.plan)
            foresight.foresee(engine.library, resolved.plan)
        except Exception as error:  # a plan that cannot be made must not end the others
            return [self._broke(id, error)]
        self._entries[id] = entry
        times = {"began": began, "ended": time.perf_counter()}
        return [Planned(id=id, key=key, recipe=resolved.recipe, warnings=resolved.warnings, **times)]

    def _foresee(self, engine: Engine, recipe: Recipe) -> list[Told]:
        try:
            resolved = engine.resolve(recipe)
            self.residents.learn(recipe, resolved.recipe, resolved.plan)
            foresight.foresee(engine.library, resolved.plan)
            self.pulse.foreseen += 1
        except Exception as error:  # it shows again when the job's turn comes, and then it counts
            LOG.debug("what a waiting job needs could not be foreseen: %s", error)
        return []

    def _admit(self, engine: Engine, id: str) -> list[Told]:
        if id in self._entries:
            self._entries[id].go = True
        return self._submit(engine)

    def _submit(self, engine: Engine) -> list[Told]:
        """Hand to the Engine what may go: everything, or one suspect alone. What it does not take fails alone."""
        waiting = {name: entry for name, entry in self._entries.items() if entry.go and entry.ticket is None}
        drawing = [entry for entry in self._entries.values() if entry.ticket is not None]
        suspects = [name for name, entry in waiting.items() if entry.suspect]
        if suspects or any(entry.suspect for entry in drawing):
            waiting = {name: waiting[name] for name in suspects[:1]} if not drawing else {}
        told: list[Told] = []
        for name, entry in waiting.items():
            try:
                self._enter(engine, entry)
            except Exception as error:  # it is this job's, the Engine draws the others
                del self._entries[name]
                told.append(self._broke(name, error))
        return told + self._submit(engine) if told and suspects else told

    def _enter(self, engine: Engine, entry: _Entry) -> None:
        assert entry.resolved is not None
        if engine.busy and foresight.coming(engine.library, entry.resolved.plan):
            self.pulse.delayed += not entry.delayed
            entry.delayed = True
            return
        entry.notes = self._notes(engine, entry.resolved)
        entry.ticket = engine.submit(entry.resolved.plan, entry.resolved.recipe, entry.owner)

    @staticmethod
    def _notes(engine: Engine, resolved: Resolved) -> tuple[str, ...]:
        try:
            return engine.notes(resolved.plan)
        except Exception as error:  # what is wrong with an adapter shows when it is drawn with
            LOG.debug("nothing can be said of a mix: %s", error)
            return ()

    def _forget(self, engine: Engine, id: str) -> list[Told]:
        entry = self._entries.pop(id, None)
        if entry is not None and entry.ticket is not None:
            engine.cancel(entry.ticket)
        return self._submit(engine)

    def _step(self, engine: Engine) -> list[Told]:
        engine.previews = any(entry.previews and entry.ticket for entry in self._entries.values())
        try:
            events = engine.step()
        except Exception as error:  # whatever it was: the worker goes on
            LOG.exception("the engine met an unexpected fault")
            return self._suspect(engine, error)
        told = [item for event in events for item in self._tell(event)]
        for call in dict.fromkeys(event.call for event in events if isinstance(event, Progress)):
            if call is not None:
                self.pulse.count(call)
                self._full = call.rows >= call.full
        if any(isinstance(event, Progress) for event in events):
            self._broken.clear()
        return told + self._submit(engine)

    def _tell(self, event: Event) -> list[Told]:
        job = next((name for name, entry in self._entries.items() if entry.ticket is event.ticket), None)
        if job is None:  # cancelled meanwhile
            return []
        if isinstance(event, Progress):
            return [Stepped(id=job, progress=event)]
        notes = self._entries[job].notes
        if isinstance(event, Done | Failed | Cancelled):
            del self._entries[job]
        if isinstance(event, Admitted) and event.began is not None:
            return [Prepared(id=job, began=event.began, ended=event.at, text=event.text)]
        if isinstance(event, Done):
            return [Drawn(id=job, picture=event.picture, began=event.began, ended=event.at, notes=notes)]
        if isinstance(event, Failed):
            return [self._broke(job, event.error)]
        return []

    def _suspect(self, engine: Engine, error: Exception) -> list[Told]:
        """After an unexpected fault: the one that met it alone has failed, several are drawn anew one by one."""
        batch = {name: entry for name, entry in self._entries.items() if entry.ticket is not None}
        for entry in batch.values():
            assert entry.ticket is not None
            engine.cancel(entry.ticket)
            entry.ticket, entry.suspect = None, True
        told: list[Told] = []
        if len(batch) == 1:
            [job] = batch
            del self._entries[job]
            told = [self._broke(job, error)]
        if len(batch) < 2:
            self._broken.add(next(iter(batch), f"no job, {len(self._broken)}"))
        if len(self._broken) >= BROKEN:
            fault = f"the engine met {BROKEN} unexpected faults in a row and drew nothing between; its log has them"
            raise UnavailableError(fault) from error
        return told + self._submit(engine)

    @staticmethod
    def _broke(job: str, error: Exception) -> Broke:
        if not isinstance(error, LaurError):
            with about(job=job):
                LOG.error("a job met an unexpected fault", exc_info=error)
        return Broke(id=job, failure=Failure.of(error))
