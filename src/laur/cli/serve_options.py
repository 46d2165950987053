"""The options of `laur serve` and `laur worker`, with the words that their help shows."""

from __future__ import annotations

from typing import Annotated

import typer

from laur.cli.options import MACHINE
from laur.serve.observe.logs import LogFormat

QUEUE = "Queue and results"
ACCESS = "Access"

Model = Annotated[str, typer.Option("-m", "--model", metavar="NAME", help="Of requests that name none.")]
Serves = Annotated[
    list[str] | None,
    typer.Option("--also", metavar="NAME", help="Another model that requests may name; all with a name by default."),
]
Store = Annotated[
    str | None,
    typer.Option(
        envvar="LAUR_STORE",
        metavar="URL",
        help="Results: a folder or s3://BUCKET/PREFIX; by default in the cache.",
        rich_help_panel=QUEUE,
    ),
]
Namespace = Annotated[str, typer.Option(metavar="NAME", help="Prefix of keys in Redis.", rich_help_panel=QUEUE)]
Keep = Annotated[
    float, typer.Option(metavar="HOURS", min=0.01, help="How long jobs are remembered.", rich_help_panel=QUEUE)
]
Lease = Annotated[
    float,
    typer.Option(metavar="SECONDS", min=1.0, help="After which a silent worker is dead.", rich_help_panel=QUEUE),
]
Limit = Annotated[
    int, typer.Option(metavar="N", min=1, help="Jobs that may wait; beyond it 429.", rich_help_panel=QUEUE)
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps; the best there is by default. Several: an engine on each.",
        rich_help_panel=MACHINE,
    ),
]
Logs = Annotated[LogFormat, typer.Option(metavar="NAME", help="text, or json with an object to each line.")]
Grace = Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="For what is being drawn when told to stop.")]
Safety = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Judge prompts and pictures: a safety checker's folder, or a plug-in's name. Off by default.",
    ),
]
Training = Annotated[
    bool,
    typer.Option("--train", help="Take trainings too: pictures become adapters that requests name."),
]
Measure = Annotated[
    bool,
    typer.Option(
        help="Measure once what batches pay on this device, before the first picture.", rich_help_panel=MACHINE
    ),
]
