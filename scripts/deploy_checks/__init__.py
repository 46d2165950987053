"""What deployment files must be: their tools' own parsers and schemas, and rules that no schema knows.

Each check yields a line for each file that is well, and raises RefusedError at the first that is not. Runs in
.venv-deploy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

Check = Callable[[Path], Iterator[str]]
"""From the repository's root, or a copy of it, to lines."""


class RefusedError(Exception):
    """A file is wrong; one line says which and how."""


def refuse_unless(true: object, text: str) -> None:
    """Raise RefusedError."""
    if not true:
        raise RefusedError(text)
