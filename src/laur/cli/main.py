"""Entry point of the console script. It imports the rest late, so that Ctrl-C at any moment ends without a trace."""

from __future__ import annotations

import signal
import sys
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
    sys.exit(code)


def _terminated(number: int, frame: FrameType | None) -> None:
    """A polite kill ends as Ctrl-C does: through every `finally`."""
    del number, frame
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    main()
