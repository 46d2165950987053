"""What `--train` puts into a server or worker: laur.train, called for one wish at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import TrainingError, UnavailableError
from laur.core.recipe import DEFAULT_CHECKPOINT
from laur.serve.training.wish import Wish, unpack
from laur.train.listener import Listener

if TYPE_CHECKING:
    from laur.serve.training.worker import TrainingWorker
    from laur.train.config import RunConfig
    from laur.train.journal import Entry


def make_trainer(opened: Any, checkpoint: str, device: str | None) -> TrainingWorker:
    """A worker for trainings on what `laur.serve.start.parts` opened."""
    from laur.core.places import cache_folder
    from laur.optimize.catalogue import user_folder
    from laur.serve.training.worker import TrainingWorker

    run = Runner(checkpoint, device)
    return TrainingWorker(opened.queue, opened.service.store, run, cache_folder() / "trainings", user_folder())


class Runner:
    """See `laur.serve.training.worker.Train`."""

    def __init__(self, checkpoint: str = DEFAULT_CHECKPOINT, device: str | None = None) -> None:
        self._checkpoint, self._device = checkpoint, device

    def __call__(
        self, wish: Wish, archive: bytes, folder: Path, tell: Callable[[int, int], None], stop: Callable[[], bool]
    ) -> Path | None:
        """Unpack, prepare, train, export; each goes on where it was."""
        from laur.utils.files import locked

        folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(folder / ".busy", wait=False):
                return self._run(wish, archive, folder, tell, stop)
        except BlockingIOError:
            raise UnavailableError("another worker has not let go of this training yet") from None

    def _run(
        self, wish: Wish, archive: bytes, folder: Path, tell: Callable[[int, int], None], stop: Callable[[], bool]
    ) -> Path | None:
        from laur.train.folder import claimed
        from laur.train.processes import start
        from laur.train.run import assemble, settle

        self._prepare(wish, archive, folder)
        if stop():
            return None
        processes, device = start(self._device)
        config, place = settle(self._configured(wish, folder), device)
        told = _Told(tell, wish.updates)
        with claimed(folder / "run", config, "auto"):
            trainer = assemble(config, folder / "run", place, processes=processes, listener=told)
            path = trainer.export() if trainer.run(stop) else None
        if path is not None and not path.is_file():
            raise TrainingError("the training wrote no adapter")
        return path

    def _prepare(self, wish: Wish, archive: bytes, folder: Path) -> None:
        from laur.pipeline.device import choose
        from laur.pipeline.loading.load import load
        from laur.train.data.maker import Wish as SetWish
        from laur.train.data.maker import shard_for
        from laur.train.data.prepare import prepare
        from laur.train.data.sources.folder import Folder

        pictures = folder / "pictures"
        if not (folder / "unpacked").exists():
            unpack(archive, pictures)
            (folder / "unpacked").touch()
        loaded = load(self._model(wish))
        side = wish.size or loaded.info.native_size
        made = SetWish(
            size=side, pixels=False, text_states=False, shard=shard_for(side, pixels=False, text_states=False)
        )
        source = Folder(pictures, trigger=wish.trigger)
        prepare(source, folder / "set", loaded, made, place=choose(self._device), workers=1, report=lambda _: None)

    def _configured(self, wish: Wish, folder: Path) -> RunConfig:
        from laur.train import config as configs
        from laur.train.objectives import TASKS

        table: dict[str, Any] = {
            "model": self._model(wish),
            "updates": wish.updates,
            "seed": wish.seed,
            "data": {"folder": str(folder / "set")},
            "sheet": {"updates": 0},
            "journal": {"tensorboard": False},
            "save": {"updates": 100, "minutes": 2.0, "keep": 1},
        }
        if wish.batch is not None:
            table["batch"] = wish.batch
        if wish.lr is not None:
            table["optimiser"] = {"lr": wish.lr}
        objective: dict[str, Any] = {} if wish.rank is None else {"rank": wish.rank}
        if wish.trigger and wish.task == "style":
            objective["trigger_words"] = [wish.trigger]
        if objective:
            table["objective"] = objective
        return configs.configure(wish.task, TASKS[wish.task].options, table)

    def _model(self, wish: Wish) -> str:
        return wish.checkpoint or self._checkpoint


class _Told(Listener):
    """Passes on how far it is."""

    def __init__(self, tell: Callable[[int, int], None], updates: int) -> None:
        self._tell, self._updates = tell, updates

    def entry(self, entry: Entry, done: float) -> None:
        """See Listener."""
        self._tell(entry.update + 1, self._updates)
