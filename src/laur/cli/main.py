"""Entry point of the console script. It imports the rest late, so that Ctrl-C at any moment ends without a trace."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType

INTERRUPTED = 130
TERMINATED = 143


def main() -> None:
    """Run the process's own command line and exit with its code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        from laur.cli.app import run
        from laur.cli.console import quiet_libraries

        quiet_libraries()
        code = run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    _leave(code)


def _leave(code: int) -> None:
    """Exit without freeing a gigabyte of weights object by object, which takes a second: the system does it at once."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)  # the interpreter waits for what still runs
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage,reportAttributeAccessIssue] # temporary folders, logs
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)  # a closed pipe: the interpreter has its own way with those
    os._exit(code)


def _terminated(number: int, frame: FrameType | None) -> None:
    """A polite kill ends as Ctrl-C does: through every `finally`."""
    del number, frame
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    main()
