"""The options of `laur train`, with the words that its help shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laur.cli.options import FLAG, MACHINE, number, whole

RUN = "The run"

Data = Annotated[str | None, typer.Option(metavar="FOLDER", help="The prepared set to learn from (laur data prepare).")]
Model = Annotated[
    str | None,
    typer.Option("-m", "--model", metavar="NAME", help="Begin from mini, a folder, a .safetensors file, a hub id."),
]
Out = Annotated[Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="The run's own folder.")]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="A TOML file of settings; options go before it.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as in optimiser.warmup=50; repeatable."),
]
Updates = Annotated[int | None, typer.Option(parser=whole, metavar="N", help="Optimiser steps of the whole run.")]
Minutes = Annotated[
    float | None,
    typer.Option(
        parser=number, metavar="M", help="End after M minutes of training instead; such a run cannot be made again."
    ),
]
Batch = Annotated[int | None, typer.Option(parser=whole, metavar="N", help="Samples of an update, over all processes.")]
Accumulate = Annotated[
    int | None, typer.Option(parser=whole, metavar="N", help="Take a batch in N slices, which needs less memory.")
]
LearningRate = Annotated[
    float | None, typer.Option("--lr", parser=number, metavar="X", help="Learning rate at its highest.")
]
Seed = Annotated[int | None, typer.Option("-s", "--seed", parser=whole, metavar="N", help="Of every random draw.")]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="float32, bfloat16 (bf16) or auto; weights are float32.", rich_help_panel=MACHINE
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        metavar=FLAG,
        help="torch.compile: a minute or two to begin, then faster.",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
Checkpointing = Annotated[
    bool | None,
    typer.Option(
        "--checkpointing/--no-checkpointing",
        metavar=FLAG,
        help="Recompute activations: less memory, a third more time.",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--fresh",
        metavar=FLAG,
        help="Go on with the run in --out and its settings; or begin it anew. By default, on if it is the same.",
        rich_help_panel=RUN,
        show_default=False,
    ),
]
PrintConfig = Annotated[
    bool,
    typer.Option(
        "--print-config",
        metavar=FLAG,
        help="Print all settings as TOML, each explained, and do nothing.",
        rich_help_panel=RUN,
    ),
]
