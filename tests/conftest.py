"""What all tests share: no network, few threads, and a cache of their own, in which `mini` is expanded once."""

import atexit
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# where several processes share the machine out, each has a thread
THREADS = int(os.environ.get("LAUR_TEST_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"))
ROOT = Path(__file__).resolve().parents[1]


def _private_folder() -> Path:
    """Kept between runs beside pytest's own cache, or temporary where the tree cannot be written."""
    folder = ROOT / ".pytest_cache" / "laur"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="laur-tests-"))


# set before any test module imports anything: hub libraries read their variables at import
_FOLDER = _private_folder()
os.environ["LAUR_CACHE"] = str(_FOLDER / "cache")
_HOME = tempfile.TemporaryDirectory(prefix="laur-home-")  # what users add: empty at each run
atexit.register(_HOME.cleanup)
os.environ["LAUR_HOME"] = _HOME.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = str(_FOLDER / "hf")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # of what tests start; a worker has inherited its parent's
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts jobs in the background; Ctrl-C is tested here
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _threads() -> None:
    """Same speed and same rounding on machines with more cores, and after a test that draws as another machine did."""
    import torch

    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Commands that serve send all logs of the process to standard error, here that of one test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
