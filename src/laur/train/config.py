"""The configuration of a run: frozen dataclasses, filled from defaults, the task's own, a TOML file and flags.

    task = "lcm-lora"
    model = "mini"
    updates = 750

    [data]
    folder = "sets/emoji"

    [optimiser]
    lr = 6e-4

    [objective]          # the task's own settings: see laur.train.objectives
    rank = 64

A later source goes before an earlier one. Unknown keys and wrong types are refused. The filled configuration is written
into the run's folder; a run goes on with that configuration only, but for what `FREE` names.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from laur.core.errors import TrainingError
from laur.train import fields
from laur.train.defaults import DEFAULTS

FILE = "config.toml"
SHORT = {"bf16": "bfloat16", "fp32": "float32"}

FREE = ("updates", "minutes", "device", "accumulate", "model", "data.folder", "save.", "sheet.", "journal.")
"""What may differ when a run goes on. The model and the set are compared by content, so they may move; the device and
the slices change rounding alone; more updates or minutes stretch what is left of a falling learning rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is learned from."""

    folder: str = ""
    """The prepared set (`laur data prepare`)."""
    mix: Mapping[str, float] = field(default_factory=dict[str, float])
    """How often a picture of each style is drawn, relative to the others; empty takes every picture once an epoch."""
    dropout: float = 0.1
    """Part of the captions that is left out, so that guidance has an unconditional prediction to stand on."""
    hold_out: bool = False
    """Leave the fold of concepts out that `laur evaluate --data` draws: a tenth of them, by the hash of their names."""

    def __post_init__(self) -> None:
        _require(0 <= self.dropout <= 1, f"dropout is {self.dropout}; it lies in 0..1")
        _require(all(weight >= 0 for weight in self.mix.values()), "mix holds a weight below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """How weights follow gradients."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon for the hidden matrices with adamw for the rest (arXiv 2502.16982)."""
    lr: float = 1e-4
    """Learning rate at its highest."""
    rest_lr: float | None = None
    """Of what muon leaves to adamw; the same as lr where it is not set."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to `final` along half a cosine, or the same to the end."""
    warmup: int = 50
    """Updates over which the learning rate rises."""
    final: float = 0.05
    """Where the cosine ends, as a part of lr."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of adamw's averages of the gradient and of its square."""
    momentum: float = 0.95
    """Decay of muon's average of the gradient."""
    weight_decay: float = 0.01
    """Part of each matrix (no bias, no norm) that an update at lr 1 would take away."""
    clip: float = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""

    def __post_init__(self) -> None:
        _require(0 < self.lr < math.inf, f"lr is {self.lr}; it must be above 0")
        _require(self.rest_lr is None or self.rest_lr > 0, f"rest_lr is {self.rest_lr}; it must be above 0")
        _require(self.warmup >= 0, f"warmup is {self.warmup}; it must not be below 0")
        _require(0 <= self.final <= 1, f"final is {self.final}; it lies in 0..1")
        _require(all(0 <= beta < 1 for beta in self.betas), f"betas are {list(self.betas)}; they lie below 1")
        _require(0 <= self.momentum < 1, f"momentum is {self.momentum}; it lies below 1")
        _require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}; it must not be below 0")
        _require(self.clip >= 0, f"clip is {self.clip}; it must not be below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveConfig:
    """When the whole state of the run is saved; it also is at the end and at Ctrl-C."""

    updates: int = 500
    """Every so many updates; 0 never."""
    minutes: float = 10.0
    """And when so many minutes have passed since; 0 never."""
    keep: int = 2
    """How many states stay on disk."""

    def __post_init__(self) -> None:
        _require(self.updates >= 0, f"updates is {self.updates}; it must not be below 0")
        _require(self.keep >= 1, f"keep is {self.keep}; at least one state must stay")


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetConfig:
    """Sheets of sample pictures while training: the same prompts and seeds each time."""

    updates: int = 250
    """Every so many updates; 0 draws none."""
    prompts: tuple[str, ...] = ()
    """A row each; where it is empty, captions of the set."""
    pictures: int = 4
    """Prompts that are taken from the set where none are given."""
    seeds: tuple[int, ...] = (1, 2)
    """A column each."""
    steps: int | None = None
    """Denoising steps; what suits the task where it is not set."""
    guidance: float | None = None
    """Guidance; what suits the task where it is not set."""

    def __post_init__(self) -> None:
        _require(self.updates >= 0, f"updates is {self.updates}; it must not be below 0")
        _require(bool(self.seeds), "seeds is empty; give one at least")


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig:
    """What is written down."""

    tensorboard: bool = True
    """Also as TensorBoard reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """All settings of a run, every default filled in."""

    task: str
    """base, vae, lcm, lcm-lora, lcf or style."""
    model: str = "mini"
    """The checkpoint that the run begins from: mini, a folder, a .safetensors file, a hub id."""
    seed: int = 0
    """Of every random draw."""
    updates: int = 1000
    """Optimiser steps of the whole run."""
    minutes: float | None = None
    """In place of `updates`: ends after so many minutes of training in all. What it gives cannot be made again."""
    batch: int = 16
    """Samples of an update, over all processes."""
    accumulate: int = 1
    """Slices, one after the other, in which each process takes its part of a batch; more need less memory."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the networks' arithmetic; weights are float32. auto takes bfloat16 where the device computes in it."""
    compile: bool = False
    """torch.compile of the network: slow to start, then faster."""
    checkpointing: bool = False
    """Compute activations anew in the backward pass in place of keeping them: less memory, a third more time."""
    average: float = 0.999
    """Decay of the average of the weights, which is what is exported; 0 exports the last weights."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; the best there is where it is not set."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is learned from."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How weights follow gradients."""
    save: SaveConfig = field(default_factory=SaveConfig)
    """When the whole state is saved."""
    sheet: SheetConfig = field(default_factory=SheetConfig)
    """Sheets of sample pictures while training."""
    journal: JournalConfig = field(default_factory=JournalConfig)
    """What is written down."""
    objective: Any = None
    """The task's own settings."""

    def __post_init__(self) -> None:
        _require(self.updates >= 1, f"updates is {self.updates}; it must be at least 1")
        _require(self.batch >= 1, f"batch is {self.batch}; it must be at least 1")
        _require(self.accumulate >= 1, f"accumulate is {self.accumulate}; it must be at least 1")
        _require(self.minutes is None or self.minutes > 0, f"minutes is {self.minutes}; it must be above 0")
        _require(0 <= self.average < 1, f"average is {self.average}; it lies in 0..1, below 1")
        _require(0 <= self.seed < 2**63, f"seed is {self.seed}; it lies in 0..2^63")


def configure(task: str, options: type | None, *tables: fields.Table) -> RunConfig:
    """A configuration from the task's defaults and `tables`, the later before the earlier.

    `options` is the dataclass of the `[objective]` table. Raises TrainingError.
    """
    merged: dict[str, Any] = {"objective": {}}
    for table in (DEFAULTS.get(task, {}), *tables):
        merged = fields.merge(merged, table)
    precision = merged.get("precision")
    if isinstance(precision, str):
        merged["precision"] = SHORT.get(precision, precision)
    if merged.setdefault("task", task) != task:
        raise TrainingError(f"the configuration is one for {merged['task']}, but the command says {task}")
    if options is None:
        merged.pop("objective")
        return fields.build(RunConfig, merged)
    return fields.build(RunConfig, merged, {"objective": options})


def read(path: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises TrainingError."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{path} is no TOML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise TrainingError(f"{path} is no TOML: it is not UTF-8") from None
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from None


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """The table of all `--set table.key=value`."""
    table: dict[str, Any] = {}
    for text in texts:
        table = fields.merge(table, fields.assignment(text))
    return table


def require_same(before: fields.Table, now: RunConfig, folder: Path) -> None:
    """Raise TrainingError at the first key in which a run's configuration differs from the one it began with.

    A setting that there was not then has its default; settings that are None are never written.
    """
    objective = None if now.objective is None else type(now.objective)()
    plain = fields.flatten(fields.to_table(RunConfig(task=now.task, objective=objective)))
    old, new = fields.flatten(before), fields.flatten(fields.to_table(now))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key, plain.get(key)) != new.get(key) and not _is_free(key):
            raise TrainingError(
                f"{folder} holds a run with {key} = {_said(old.get(key))}, not {_said(new.get(key))}; "
                "give it the same settings to go on, another --out, or --fresh to begin anew"
            )


def with_precision(config: RunConfig, precision: Literal["float32", "bfloat16"]) -> RunConfig:
    """The configuration with `auto` decided."""
    return replace(config, precision=precision) if config.precision == "auto" else config


def _is_free(key: str) -> bool:
    return any(key.startswith(name) if name.endswith(".") else key == name for name in FREE)


def _said(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def _require(true: bool, fault: str) -> None:
    """ValueError, which `fields.build` puts into the user's words with the table's name before it."""
    if not true:
        raise ValueError(fault)
