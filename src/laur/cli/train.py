"""`laur train TASK`: a checkpoint and pictures become a checkpoint or an adapter."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from laur.cli import train_options as o
from laur.cli.console import say
from laur.cli.options import AsJson, Device
from laur.core.errors import TrainingError

if TYPE_CHECKING:
    from laur.train.config import RunConfig
    from laur.train.folder import Mode
    from laur.train.listener import Listener
    from laur.train.processes import Processes

TERMINATED = 143
ECHO_SECONDS = 1.0
"""A launcher passes on the Ctrl-C that the terminal has already sent to all: that is no second wish."""

TASKS = {
    "base": "Train a denoiser from its weights or from nothing: how mini itself was made.",
    "vae": "Train a checkpoint's autoencoder on pictures.",
    "lcm": "Distil a checkpoint into an LCM that draws in 1 to 8 steps (arXiv 2310.04378).",
    "lcm-lora": "Distil the same into a LoRA: a small file that makes its kin fast (arXiv 2311.05556).",
    "lcf": "Move an LCM to other pictures without a teacher: consistency fine-tuning (arXiv 2310.04378, 4.4).",
    "style": "Learn a style from pictures with captions, as a LoRA.",
}

EXAMPLES = {
    "base": ["laur train base --data sets/emoji --out runs/base --minutes 25 --compile"],
    "vae": ["laur train vae --data sets/emoji --out runs/vae --updates 5000"],
    "lcm": [
        "laur train lcm --model sd15.safetensors --data sets/photos --out runs/lcm --checkpointing",
        "accelerate launch --multi_gpu --num_processes 8 -m laur train lcm --config lcm.toml --out runs/lcm",
    ],
    "lcm-lora": [
        "laur train lcm-lora --data sets/emoji --out runs/lcm-lora",
        "laur train lcm-lora --model sdxl/ --data sets/photos --out runs/xl --set objective.rank=64 --accumulate 4",
    ],
    "lcf": ["laur train lcf --model runs/lcm/result --data sets/ink --out runs/ink --updates 300"],
    "style": [
        "laur train style --data sets/ink --out runs/ink",
        "laur train style --data sets/ink --out runs/ink --resume --updates 800",
    ],
}

train_app = typer.Typer(
    no_args_is_help=True,
    help="Distil and fine-tune: lcm, lcm-lora, lcf, style, base, vae.",
    epilog="`laur train TASK --help` explains a task and shows examples; `laur data prepare` makes a set.",
)


def train(
    *,
    context: typer.Context,
    data: o.Data = None,
    model: o.Model = None,
    out: o.Out = None,
    config: o.Config = None,
    updates: o.Updates = None,
    minutes: o.Minutes = None,
    batch: o.Batch = None,
    accumulate: o.Accumulate = None,
    lr: o.LearningRate = None,
    seed: o.Seed = None,
    settings: o.Set = None,
    precision: o.Precision = None,
    compile: o.Compile = None,
    checkpointing: o.Checkpointing = None,
    device: Device = None,
    resume: o.Resume = None,
    print_config: o.PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """See `TASKS`; one function serves all of them."""
    task = context.info_name or ""
    flags = {
        "model": model,
        "seed": seed,
        "updates": updates,
        "minutes": minutes,
        "batch": batch,
        "accumulate": accumulate,
        "precision": precision,
        "compile": compile,
        "checkpointing": checkpointing,
        "device": device,
    }
    table: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
    from laur.train.config import assignments

    if data is not None:
        table["data"] = {"folder": data}
    if lr is not None:
        table["optimiser"] = {"lr": lr}
    mode: Mode = "auto" if resume is None else "resume" if resume else "fresh"
    settled = _configured(task, out, mode, config, [table, assignments(settings or [])])
    if print_config:
        from laur.train.fields import to_toml

        typer.echo(to_toml(settled), nl=False)
        return
    if out is None:
        raise TrainingError("name the run's folder with --out")
    _train(settled, out, mode, as_json=as_json)


def _configured(
    task: str, out: Path | None, mode: Mode, file: Path | None, over: Sequence[dict[str, Any]]
) -> RunConfig:
    """From the run's own settings where it goes on, the file, and what goes `over` it, the later before the earlier."""
    from laur.train import config as configs
    from laur.train.folder import stored
    from laur.train.objectives import TASKS as KNOWN

    tables: list[dict[str, Any]] = []
    if mode == "resume":
        if out is None:
            raise TrainingError("name the run to go on with by --out")
        tables.append(stored(out))
    if file is not None:
        tables.append(configs.read(file))
    return configs.configure(task, KNOWN[task].options, *tables, *over)


def _train(config: RunConfig, folder: Path, mode: Mode, *, as_json: bool) -> None:
    from laur.train.processes import start
    from laur.utils.allocator import keep_freed_memory

    keep_freed_memory()  # the next update asks for what the last one frees
    processes, device = start(config.device)
    try:
        _run(config, folder, mode, processes, device, as_json=as_json)
    finally:
        processes.close()


def _run(
    config: RunConfig, folder: Path, mode: Mode, processes: Processes, device: str | None, *, as_json: bool
) -> None:
    from contextlib import nullcontext

    from laur.cli.train_display import display
    from laur.train.folder import claimed
    from laur.train.listener import Listener
    from laur.train.run import assemble, settle

    config, place = settle(config, device)
    listener: Listener = display() if processes.is_first else Listener()
    with claimed(folder, config, mode) if processes.is_first else nullcontext():
        processes.wait()  # until the folder is as it shall be
        trainer = assemble(config, folder, place, processes=processes, listener=listener)
        with stopping(listener) as asked:
            try:
                finished = trainer.run(lambda: bool(asked))
            finally:
                listener.close()
        if not finished:
            if processes.is_first:
                say(f"stopped after update {trainer.update}; go on with: {_command(config, folder)}")
            if asked == [signal.SIGTERM]:
                raise typer.Exit(TERMINATED)
            raise KeyboardInterrupt
        listener.note("writing the result and trying it")
        path = trainer.export()
    if path is not None:
        _report(path, trainer.update, trainer.seconds, as_json=as_json)


def _command(config: RunConfig, folder: Path) -> str:
    import shlex

    return f"laur train {config.task} --out {shlex.quote(str(folder))} --resume"


def _report(path: Path, updates: int, seconds: float, *, as_json: bool) -> None:
    from laur.cli.train_display import clock

    if as_json:
        typer.echo(json.dumps({"result": str(path), "updates": updates, "seconds": round(seconds, 3)}))
        return
    say(f"{updates} updates in {clock(seconds)}; the result was loaded back and tried")
    typer.echo(str(path))


@contextmanager
def stopping(listener: Listener) -> Generator[list[int]]:
    """Let Ctrl-C and a polite kill end the run after the update that is under way; a second one ends it at once.

    Yields a list that holds the signal's number once one has come.
    """
    asked: list[int] = []
    first = 0.0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal first
        del frame
        if not asked:
            first = time.monotonic()
        elif time.monotonic() - first > ECHO_SECONDS:
            raise KeyboardInterrupt
        else:
            return
        asked.append(number)
        listener.note("finishing this update and saving; once more to leave at once")

    previous = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


for _name, _words in TASKS.items():
    _all = (
        f"All settings of the task, each explained, in the file that --config takes: laur train {_name} --print-config"
    )
    _examples = "\n\n".join([_all, "[bold]Examples[/]", *EXAMPLES[_name]])
    train_app.command(_name, help=_words, epilog=_examples)(train)
