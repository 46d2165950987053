"""The loop of a run: batches through an objective, gradients into weights, states and journal onto the disk.

What an update does depends on its number, the configuration and the weights alone, so a run that was killed and went on
from its last state ends at the same weights, bit for bit on a CPU of the same kind with the same number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from laur.core.errors import TrainingError
from laur.train import state as states
from laur.train.average import Average
from laur.train.journal import Entry, Journal
from laur.train.listener import Listener
from laur.train.optimisers import Optimisers, factor
from laur.train.processes import Processes
from laur.train.update import Step, Steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from laur.train.batch import Batch
    from laur.train.config import RunConfig
    from laur.train.draws import Draws
    from laur.train.objective import Objective

RESULT = "result"
MIB = 2**20


class Feeding(Protocol):
    """Where batches come from: `laur.train.feed.Feed`."""

    def batch(self, update: int, rows: slice) -> tuple[Batch, Draws]:
        """Some rows of an update's global batch, the same whenever they are asked for."""
        ...


class Sheet(Protocol):
    """What draws samples while training: `laur.train.sheets.Sheets`."""

    def draw(self, update: int, weights: Mapping[str, Tensor]) -> Path | None:
        """With the averaged weights, after so many updates; the file, or None where it could not be drawn."""
        ...


class Trainer:
    """One run in one folder. `run` goes until the end or until it is told to stop; `export` writes what came out.

    Several processes each have one, over the same configuration; the first alone writes.
    """

    def __init__(
        self,
        objective: Objective,
        feed: Feeding,
        config: RunConfig,
        folder: Path,
        *,
        processes: Processes | None = None,
        identity: Mapping[str, str] | None = None,
        sheets: Sheet | None = None,
        listener: Listener | None = None,
    ) -> None:
        """Takes the newest state in `folder`, if there is one.

        `identity` holds hashes of what the run stands on (checkpoint, set, the objective's files); a run does not go on
        upon others.
        Errors: TrainingError.
        """
        self.objective = objective
        self.config = config
        self.folder = folder
        self.update = 0
        self.seconds = 0.0
        self._processes = processes or Processes()
        self._identity = dict(identity or {})
        self._sheets = sheets
        self._listener = listener or Listener()
        self._parameters = trainable(objective.model)
        self._optimisers = Optimisers(self._parameters, config.optimiser)
        self._average = Average(self._parameters, config.average)
        self._steps = Steps(objective, feed, config, self._parameters, self._processes)
        self._saved_at = 0.0
        self._saved_update = -1
        self._restore()
        _prepare((objective.model, *getattr(objective, "also_differentiated", ())), config)

    # -------------------------------------------------------------------- run

    def run(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train until the run's end; False where `stop` said so before. The state is saved either way."""
        journal = self._journal()
        self._listener.began(self.update, self.config)
        self._saved_at, origin = self.seconds, time.perf_counter() - self.seconds
        stopped = False
        try:
            while not stopped and self.done < 1:
                stopped = self._once(journal, origin, stop)
            self._save(journal)
        finally:
            self._steps.close()
            if journal is not None:
                journal.close()
        return self.done >= 1

    def export(self) -> Path | None:
        """The result with the averaged weights, written and checked by the objective; None but in the first process."""
        if not self._processes.is_first:
            return None
        return self.objective.export(self._average.weights(), self.folder / RESULT)

    @property
    def done(self) -> float:
        """What part of the run is over, 0..1: of its updates, or of its time."""
        if self.config.minutes is not None:
            return min(1.0, self.seconds / (60 * self.config.minutes))
        return min(1.0, self.update / self.config.updates)

    def _once(self, journal: Journal | None, origin: float, stop: Callable[[], bool]) -> bool:
        """One update with all that hangs on it; True where the run shall stop."""
        began = time.perf_counter()
        step = self._steps.gradients(self.update, began - origin, stop())
        if not step.is_finite:
            raise TrainingError(self._steps.explain(self.update, step, self._last_state()))
        lr = self._optimisers.step(factor(self.config.optimiser, self.update, self.done))
        self._steps.clear()
        self.update += 1
        self._average.update(self.update)
        self.objective.updated(self.update - 1)
        took = time.perf_counter() - began
        # of several processes, each must know the same time: the learning rate may hang on it
        self.seconds = step.seconds + took if self._processes.count == 1 else step.seconds
        entry = self._entry(step, lr, took)
        if journal is not None:
            journal.write(entry)
        self._listener.entry(entry, self.done)
        self._sheet(journal)
        if self._is_save_due():
            self._save(journal)
        return step.stop or (self._processes.count == 1 and stop())

    def _entry(self, step: Step, lr: float, took: float) -> Entry:
        return Entry(
            update=self.update - 1,
            loss=step.loss,
            parts=step.parts,
            lr=lr,
            gradient_norm=step.norm,
            pictures_per_second=self.config.batch / took,
            seconds=self.seconds,
            peak_memory_mib=peak_memory(next(iter(self._parameters.values())).device) / MIB,
        )

    def _journal(self) -> Journal | None:
        if not self._processes.is_first:
            return None
        return Journal(self.folder, self.update, tensorboard=self.config.journal.tensorboard)

    def _sheet(self, journal: Journal | None) -> None:
        every = self.config.sheet.updates
        if journal is None or self._sheets is None or not every or self.update % every:
            return
        path = self._sheets.draw(self.update, self._average.weights())
        if path is not None:
            self._listener.note(f"sheet after update {self.update}: {path}")
            journal.picture("sheet", self.update, path)

    # ------------------------------------------------------------------ state

    def _is_save_due(self) -> bool:
        wish = self.config.save
        by_number = wish.updates > 0 and self.update % wish.updates == 0
        return by_number or (wish.minutes > 0 and self.seconds - self._saved_at >= 60 * wish.minutes)

    def _save(self, journal: Journal | None) -> None:
        if journal is None or self._saved_update == self.update:
            return
        journal.sync()
        place = states.save(self.folder, self._state(), keep=self.config.save.keep)
        self._saved_at, self._saved_update = self.seconds, self.update
        self._listener.note(f"state after update {self.update}: {place}")

    def _state(self) -> states.RunState:
        parts = {
            "parameters": self._parameters,
            "optimiser": self._optimisers.state_dict(),
            "average": self._average.state_dict(),
            "objective": self.objective.state_dict(),
        }
        return states.RunState(self.update, self.seconds, parts, self._identity)

    def _restore(self) -> None:
        found = states.newest(self.folder, self._listener.warn)
        if len({*self._processes.gather(-1 if found is None else found.update)}) > 1:
            raise TrainingError(f"not all processes find the same state in {self.folder}; it must be a shared folder")
        if found is None:
            self._processes.take_first(self._parameters.values())
            return
        for name, digest in found.identity.items():
            if self._identity.get(name, digest) != digest:
                raise TrainingError(
                    f"{self.folder} holds a run on another {name} (content {digest[:10]}, "
                    f"here {self._identity[name][:10]}); name that one, or another --out"
                )
        _take(self._parameters, found.parts["parameters"])
        self._optimisers.load_state_dict(found.parts["optimiser"])
        self._average.load_state_dict(found.parts["average"])
        self.objective.load_state_dict(found.parts["objective"])
        self.update, self.seconds = found.update, found.seconds
        self._saved_update = found.update

    def _last_state(self) -> str:
        if self._saved_update < 0:
            return "no state had been saved"
        return f"the last good state, after update {self._saved_update}, is kept in {self.folder / states.FOLDER}"


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name. Raises TrainingError where there are none."""
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise TrainingError("nothing of this network is trained; check the objective's settings")
    return found


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU as torch allocates it, elsewhere of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    from laur.utils.peak_memory import resident_bytes

    return resident_bytes()


@torch.no_grad()
def _take(parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    if parameters.keys() != saved.keys():
        odd = sorted(parameters.keys() ^ saved.keys())[0]
        raise TrainingError(f"the saved state does not fit this network: {odd} is in one of them alone")
    for name, parameter in parameters.items():
        if parameter.shape != saved[name].shape:
            raise TrainingError(f"the saved state does not fit this network: {name} has another shape")
        parameter.copy_(saved[name])


def _prepare(networks: Iterable[nn.Module], config: RunConfig) -> None:
    """Checkpointing and compilation, both in place, so that names of parameters stay as they are."""
    for network in networks:
        _prepare_one(network, config)


def _prepare_one(model: nn.Module, config: RunConfig) -> None:
    if config.checkpointing:
        able = [m for m in model.modules() if getattr(m, "_supports_gradient_checkpointing", False)]
        if not able:
            raise TrainingError("this network cannot recompute activations; leave checkpointing out")
        for module in able:
            module.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
    if config.compile:
        model.compile(dynamic=False)
