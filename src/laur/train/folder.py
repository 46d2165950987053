"""The folder of a run: whose it is, and that one run at a time writes to it.

RUN/config.toml     all settings, as they were filled in
    journal.jsonl   a line an update
    tensorboard/    the same for TensorBoard
    states/         the last whole states
    sheets/         sample pictures while training
    result/         what came out
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from laur.core.errors import OutputError, TrainingError
from laur.train import config as configs
from laur.train import fields, journal, state
from laur.train.config import RunConfig
from laur.utils.files import atomic_write, locked, remove_leftovers

Mode = Literal["auto", "resume", "fresh"]
"""auto begins in an empty folder and goes on with a run of the same settings; fresh removes a run that is there."""

LOCK = "run.lock"
SHEETS = "sheets"
RESULT = "result"
PREPARED = "data"
OWN_FILES = (configs.FILE, journal.FILE)
OWN_FOLDERS = (state.FOLDER, journal.TENSORBOARD, SHEETS, RESULT)


def stored(folder: Path) -> dict[str, Any]:
    """The settings of the run in `folder`. Raises TrainingError where there is none."""
    if not (folder / configs.FILE).is_file():
        raise TrainingError(f"{folder} holds no run to go on with; leave --resume out to begin one")
    return configs.read(folder / configs.FILE)


@contextmanager
def claimed(folder: Path, config: RunConfig, mode: Mode) -> Generator[None]:
    """Hold `folder` for a run of these settings, which are written into it.

    Raises:
        TrainingError: a run with other settings is there, or one that is going on; files of another kind.
        OutputError: it cannot be written to.
    """
    if mode == "resume":
        stored(folder)
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_strangers(folder)
            held.enter_context(locked(folder / LOCK, wait=False))
            _settle(folder, config, mode)
        except BlockingIOError:
            raise TrainingError(f"a run is going on in {folder}; wait for it, or name another --out") from None
        except (NotADirectoryError, FileExistsError):
            raise OutputError(f"{folder} is a file; name a folder with --out") from None
        except OSError as error:
            raise OutputError(f"{folder} cannot be written to: {error.strerror}") from None
        yield


def _settle(folder: Path, config: RunConfig, mode: Mode) -> None:
    file = folder / configs.FILE
    if mode == "fresh":
        for name in OWN_FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in OWN_FILES:
            (folder / name).unlink(missing_ok=True)
    elif file.is_file() and _has_begun(folder):
        configs.require_same(configs.read(file), config, folder)
    state.clean(folder)
    remove_leftovers(folder / RESULT)  # of a process that was killed while it wrote the result
    atomic_write(file, fields.to_toml(config).encode())


def _has_begun(folder: Path) -> bool:
    """Whether anything has been learned there; a run that could not start binds nobody to its settings."""
    return state.exists(folder) or any(journal.read(folder / journal.FILE))


def _refuse_strangers(folder: Path) -> None:
    """What is in a folder that holds no run is not ours to write between or, with --fresh, to remove."""
    if (folder / configs.FILE).is_file():
        return
    known = {LOCK, PREPARED, *OWN_FILES, *OWN_FOLDERS}
    strange = sorted(p.name for p in folder.iterdir() if p.name not in known and not p.name.startswith("."))
    if strange:
        raise TrainingError(f"{folder} holds {strange[0]} and no run; name an empty or new folder with --out")
