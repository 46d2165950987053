"""The command `laur`: what it consists of, and how it ends.

Exit codes: 0 done; 1 done, with an outcome that scripts should notice; 2 a wish or a machine that does not allow it,
said in one line; 130 stopped by Ctrl-C. Anything else that escapes is a bug and keeps its stack trace.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from laur import __version__
from laur.cli import BEGUN
from laur.cli.adapters import adapters_app
from laur.cli.batch import EXAMPLES as BATCH_EXAMPLES
from laur.cli.batch import batch
from laur.cli.bench import bench
from laur.cli.console import complain
from laur.cli.data import data_app
from laur.cli.doctor import doctor
from laur.cli.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from laur.cli.evaluate import evaluate
from laur.cli.explore import EXAMPLES as EXPLORE_EXAMPLES
from laur.cli.explore import explore
from laur.cli.generate import EXAMPLES as GENERATE_EXAMPLES
from laur.cli.generate import generate
from laur.cli.inspect import EXAMPLES as INSPECT_EXAMPLES
from laur.cli.inspect import inspect
from laur.cli.keys import keys_app
from laur.cli.models import models_app
from laur.cli.options import FLAG
from laur.cli.queue import queue_app
from laur.cli.reproduce import EXAMPLES as REPRODUCE_EXAMPLES
from laur.cli.reproduce import reproduce
from laur.cli.serve import SERVE_EXAMPLES, WORKER_EXAMPLES, serve, worker
from laur.cli.styles import EXAMPLES as STYLES_EXAMPLES
from laur.cli.styles import styles
from laur.cli.top import EXAMPLES as TOP_EXAMPLES
from laur.cli.top import top
from laur.cli.train import train_app
from laur.core.errors import LaurError

INTERRUPTED = 130
FAULT_OF_THE_SYSTEM = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}
"""What no program can help: shown as one line wherever it happens."""

app = typer.Typer(
    name="laur",
    no_args_is_help=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=GENERATE_EXAMPLES)(generate)
app.command(epilog=REPRODUCE_EXAMPLES)(reproduce)
app.command(epilog=INSPECT_EXAMPLES)(inspect)
app.command(epilog=EXPLORE_EXAMPLES)(explore)
app.command(epilog=STYLES_EXAMPLES)(styles)
app.add_typer(models_app, name="models")
app.add_typer(adapters_app, name="adapters")
app.add_typer(train_app, name="train")
app.add_typer(data_app, name="data")
app.command(epilog=BATCH_EXAMPLES)(batch)
app.command(epilog=EVALUATE_EXAMPLES)(evaluate)
app.command(epilog=SERVE_EXAMPLES)(serve)
app.command(epilog=WORKER_EXAMPLES)(worker)
app.command(epilog=TOP_EXAMPLES)(top)
app.add_typer(keys_app, name="keys")
app.add_typer(queue_app, name="queue")
app.command()(doctor)
app.command()(bench)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"laur {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True, epilog="`laur COMMAND --help` explains a command and shows examples.")
def laur(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, metavar=FLAG, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Few-step image generation: a prompt becomes pictures in 1 to 8 steps, on a laptop's CPU or on GPUs.

    Start with:  [bold]laur generate "a red apple, fluent 3d"[/]
    """
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (the process's own by default) and return its exit code."""
    try:
        command = typer.main.get_command(app)
        code = command.main(arguments, prog_name="laur", standalone_mode=False, obj=BEGUN)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        complain(f"{error.format_message()}{_where_to_look(error)}")
        return error.exit_code
    except LaurError as error:
        complain(str(error))
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        return _out_of_memory(error)
    except OSError as error:
        return _system_error(error)


def _where_to_look(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see: {context.command_path} --help)" if context is not None else ""


def _out_of_memory(error: MemoryError | RuntimeError) -> int:
    """torch has a class of its own on GPUs, and none on the CPU."""
    text = str(error)
    if not isinstance(error, MemoryError) and "out of memory" not in text and "allocate memory" not in text:
        raise error
    complain("out of memory; use a smaller size or fewer pictures, or close other programs")
    return 2


def _system_error(error: OSError) -> int:
    if error.errno == errno.EPIPE:
        # whoever read our output has gone, as `head` does; the interpreter must not try to flush into the pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if error.errno not in FAULT_OF_THE_SYSTEM:
        raise error
    place = f": {error.filename}" if error.filename else ""
    complain(f"{error.strerror}{place}")
    return 2
