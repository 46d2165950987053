"""A configuration becomes a Trainer: checkpoint, set, feed and objective put together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import DataError, TrainingError
from laur.train import config as configs
from laur.train.config import RunConfig
from laur.train.listener import Listener

if TYPE_CHECKING:
    import torch

    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.conditions import Conditioner
    from laur.train.data.order import Order
    from laur.train.data.reader import TrainingSet
    from laur.train.loop import Sheet, Trainer
    from laur.train.objective import Objective
    from laur.train.processes import Processes


def settle(config: RunConfig, device: str | None) -> tuple[RunConfig, torch.device]:
    """The configuration with its precision decided, and the device that this process trains on.

    Errors: NotFoundError where there is no such device.
    """
    import torch

    from laur.pipeline.device import choose, cpu_has_bfloat16

    place = choose(device, "float32").device
    low = cpu_has_bfloat16() if place.type == "cpu" else place.type == "cuda" and torch.cuda.is_bf16_supported()
    return configs.with_precision(config, "bfloat16" if low else "float32"), place


def assemble(
    config: RunConfig, folder: Path, device: torch.device, *, processes: Processes, listener: Listener
) -> Trainer:
    """The trainer of a run, at its newest state. Errors: those of loading, DataError, TrainingError."""
    import torch

    from laur.pipeline.loading.load import load
    from laur.train.feed import Feed
    from laur.train.loop import Trainer
    from laur.train.objectives import TASKS

    data = opened(config)
    loaded = load(config.model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)  # of what a network begins with
        objective = TASKS[config.task].build(config.objective, loaded, device)
    objective.held_out = config.data.hold_out
    if fits := getattr(objective, "fits", None):
        fits(data)
    conditioner = _conditioner(config, data, loaded, device)
    pictures = getattr(objective, "needs_pictures", False)
    paths_of = getattr(objective, "paths_of", None)
    drawn_by = loaded.info.key if paths_of or getattr(objective, "needs_noise", False) else ""
    feed = Feed(
        data,
        _order(config, data),
        conditioner,
        config.seed,
        device,
        pictures=pictures,
        drawn_by=drawn_by,
        paths_of=paths_of,
    )
    trainer = Trainer(
        objective,
        feed,
        config,
        folder,
        processes=processes,
        identity={"checkpoint": loaded.info.key, "set": data.info.key, **getattr(objective, "inputs", {})},
        sheets=_sheets(config, folder, data, loaded, objective=objective, device=device, listener=listener),
        listener=listener,
    )
    if complete := getattr(objective, "complete", None):
        complete()  # of what no state brought; the clock of the training stands still
    return trainer


def opened(config: RunConfig) -> TrainingSet:
    """The run's prepared set. Errors: DataError, also where it is empty; TrainingError where none is named."""
    from laur.train.data.reader import TrainingSet

    if not config.data.folder:
        raise TrainingError("name the prepared set to learn from with --data; `laur data prepare` makes one")
    data = TrainingSet.open(Path(config.data.folder))
    if len(data) == 0:
        raise DataError(f"{config.data.folder} holds no pictures; prepare it from a folder that does")
    return data


def _order(config: RunConfig, data: TrainingSet) -> Order:
    from laur.train.data.order import Order

    weights = data.weights(config.data.mix) if config.data.mix else None
    left_out = None
    if config.data.hold_out:
        from laur.train.evaluate.prompts import places_held_out

        left_out = places_held_out(data)
    return Order(data.bucket, weights, config.seed, config.batch, left_out)


def _conditioner(
    config: RunConfig, data: TrainingSet, loaded: LoadedCheckpoint, device: torch.device
) -> Conditioner | None:
    """None for an autoencoder, which is told nothing."""
    if config.task == "vae":
        return None
    from laur.train.conditions import Conditioner

    return Conditioner(loaded, data, config.data.dropout, device)


def _sheets(
    config: RunConfig,
    folder: Path,
    data: TrainingSet,
    loaded: LoadedCheckpoint,
    *,
    objective: Objective,
    device: torch.device,
    listener: Listener,
) -> Sheet | None:
    """What suits the task: pictures from prompts, or pictures there and back through the autoencoder."""
    import numpy as np

    from laur.train.sheets import Reconstructions, Sheets

    wish = config.sheet
    numbers, counts = np.unique(data.bucket, return_counts=True)
    commonest = int(numbers[counts.argmax()])
    members = np.flatnonzero(data.bucket == commonest)
    some = members[np.unique(np.linspace(0, len(members) - 1, max(1, wish.pictures)).round().astype(np.int64))]
    if config.task == "vae":
        return Reconstructions(objective, data.pixels(some), folder, device=device, listener=listener)
    height, width = data.info.buckets[commonest]
    prompts = wish.prompts or tuple(captions[-1] for captions in data.captions(some))
    return Sheets(
        config.task,
        wish,
        folder,
        objective=objective,
        loaded=loaded,
        prompts=prompts,
        size=(width, height),
        device=device,
        listener=listener,
    )
