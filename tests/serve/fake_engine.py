"""An Engine that draws nothing: every step takes as long as it is told, every picture has its recipe's colour.

Prompts with a meaning: `crash` raises in a step, `refuse` fails in it, `unplannable` cannot be resolved, `die` kills
the process, `unsubmittable` is not taken, `unspeakable` gives an event that is none.
"""

import dataclasses
import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from laur.core.errors import NumericalError, RecipeError
from laur.core.recipe import Recipe
from laur.input.cache import StatesCache
from laur.input.store import PictureStore
from laur.pipeline.events import Admitted, Call, Cancelled, Done, Event, Failed, Progress, Ticket
from laur.render.embedded import Provenance
from laur.render.picture import Picture
from laur.serve.job import short_hash
from laur.utils.budget import Budget


class FakeStore:
    """Adapters are read when `prefetch` asks, in no time, or while `slow` is set not before `arrive`."""

    def __init__(self) -> None:
        self.slow = False
        self.reads = 0
        self.asked: list[str] = []
        self._held: set[tuple[str, str]] = set()
        self._coming: set[tuple[str, str]] = set()

    def prefetch(self, checkpoint: str, uses: Any) -> None:
        for use in uses:
            self.asked.append(use.sha256)
            if (checkpoint, use.sha256) not in self._held:
                self._coming.add((checkpoint, use.sha256))
        if not self.slow:
            self.arrive()

    def arrive(self) -> None:
        self.reads += len(self._coming)
        self._held |= self._coming
        self._coming = set()

    def holds(self, key: tuple[str, str]) -> bool:
        return key in self._held

    def is_coming(self, key: tuple[str, str]) -> bool:
        return key in self._coming


class FakeEngine:
    """What `laur.serve.worker` uses of an Engine."""

    def __init__(self, *, seconds: float = 0.0, cap: int = 8) -> None:
        self.seconds, self.cap = seconds, cap
        self.store = FakeStore()
        self.library: Any = SimpleNamespace(
            provenance=self._provenance,
            inputs=PictureStore(),
            rows=SimpleNamespace(store=self.store, prefetch=self.store.prefetch),
            holds=lambda checkpoint: True,
            states=StatesCache(),
            budget=Budget(2**20),
            placement=SimpleNamespace(device=SimpleNamespace(type="cpu", index=None), dtype_name="float32"),
        )
        self.previews = False
        self.checkpoint = "mini"
        self.begun: list[str] = []
        """Prompts in the order in which they were admitted."""
        self.batches: list[list[str]] = []
        """Prompts of each step."""
        self.gate = threading.Event()
        """Steps wait for it."""
        self.gate.set()
        self._queue: list[Ticket] = []
        self._active: dict[Ticket, int] = {}
        self._ended: list[Event] = []
        self._numbers = 0
        self.told: tuple[str, ...] = ()
        self.faulty: set[str] = set()
        """What raises whatever it is asked: step, cancel, busy."""

    def _sound(self, part: str) -> None:
        if part in self.faulty:
            raise RuntimeError(f"{part} is broken, see /secret/path")

    def notes(self, plan: Any) -> tuple[str, ...]:
        if self.told == ("raise",):
            raise RuntimeError("a fault")
        return self.told

    def resolve(self, recipe: Recipe) -> Any:
        if recipe.prompt == "unplannable":
            raise RecipeError("steps is 0; it must be from 1 to 1000")
        seed = int.from_bytes(os.urandom(4), "big") if recipe.seed is None else recipe.seed
        pictures = [self.library.inputs.get(ref) for ref in (recipe.image, recipe.mask) if ref is not None]
        width, height = (max(16, side) for side in (pictures[0].size if pictures else (64, 64)))
        refs = tuple(dataclasses.replace(ref, sha256=short_hash(ref.name)) for ref in recipe.adapters or ())
        filled = recipe.replace(
            seed=seed,
            steps=recipe.steps or 4,
            width=recipe.width or width,
            height=recipe.height or height,
            adapters=refs,
        )
        uses = tuple(SimpleNamespace(sha256=short_hash(ref.name)) for ref in recipe.adapters or ())
        stages = [SimpleNamespace(checkpoint="mini", adapters=uses, rows=())] if uses else []
        plan = SimpleNamespace(key=filled.hash, steps=filled.steps, stages=stages)
        return SimpleNamespace(plan=plan, recipe=filled, warnings=(), pictures=pictures)

    def submit(self, plan: Any, recipe: Recipe, owner: object = None) -> Ticket:
        if recipe.prompt == "unsubmittable":
            raise RuntimeError("not taken, see /secret/path")
        self._numbers += 1
        ticket = Ticket(self._numbers, plan, recipe)
        self._queue.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        self._sound("cancel")
        if ticket in self._queue:
            self._queue.remove(ticket)
        elif self._active.pop(ticket, None) is None:
            return False
        self._ended.append(Cancelled(ticket))
        return True

    @property
    def busy(self) -> bool:
        self._sound("busy")
        return bool(self._queue or self._active or self._ended)

    def step(self) -> list[Event]:
        events, self._ended = self._ended, []
        for ticket in self._queue:
            self._active[ticket] = 0
            self.begun.append(ticket.recipe.prompt)
            events.append(Admitted(ticket, time.perf_counter(), 0.0))
        self._queue = []
        batch = list(self._active)[: self.cap]
        if not batch:
            return events
        self.batches.append([ticket.recipe.prompt for ticket in batch])
        began = time.perf_counter()
        self.gate.wait()
        time.sleep(self.seconds)
        call = Call(began, time.perf_counter(), len(batch), self.cap)
        self._sound("step")
        prompts = [ticket.recipe.prompt for ticket in batch]
        if "unspeakable" in prompts:
            return [*events, "nothing"]  # pyright: ignore
        if "die" in prompts:
            os.kill(os.getpid(), signal.SIGKILL)
        if "crash" in prompts:
            raise RuntimeError("the network is gone, see /secret/path")
        for ticket in batch:
            events += self._one(ticket, call)
        return events

    def _one(self, ticket: Ticket, call: Call) -> list[Event]:
        if ticket.recipe.prompt == "refuse":
            del self._active[ticket]
            return [Failed(ticket, NumericalError("step 1 gave NaN"))]
        self._active[ticket] += 1
        done, steps = self._active[ticket], ticket.recipe.steps or 4
        rgb: Any = (lambda x0: _Pixels(_colour(ticket.recipe, 8))) if self.previews else None
        events: list[Event] = [Progress(ticket, done, steps, np.zeros((4, 8, 8)), rgb, call)]  # pyright: ignore
        if done == steps:
            del self._active[ticket]
            pixels = _colour(ticket.recipe, 0)
            picture = Picture(pixels, ticket.recipe, self._provenance(ticket.plan, ticket.recipe))
            events.append(Done(ticket, picture, time.perf_counter()))
        return events

    def _provenance(self, plan: Any, recipe: Recipe) -> Provenance:
        return Provenance(
            laur="0",
            torch="0",
            device="cpu",
            dtype="float32",
            backend="fake",
            checkpoint="mini",
            checkpoint_sha256="0" * 64,
            plan_key=plan.key,
        )


class _Pixels:
    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def numpy(self) -> np.ndarray:
        return self._pixels


def _colour(recipe: Recipe, side: int) -> np.ndarray:
    shape = (side or recipe.height or 64, side or recipe.width or 64, 3)
    colour = [recipe.seed or 0, len(recipe.prompt), recipe.steps or 0]
    return np.broadcast_to(np.array(colour, dtype=np.int64) % 256, shape).astype(np.uint8)
