"""Logs: a line for each thing that happened, for people or as JSON, with what it was about.

`about` says whose work the code below it does: a request, a job, a tenant. It follows tasks, as context variables do,
and stands in every line that is written meanwhile, whichever module writes it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

from laur.serve.observe.redact import redact

_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("laur_about")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "about", "taskName", "color_message"}
"""Fields of every record; what a record has besides was given with `extra`."""


class LogFormat(StrEnum):
    """How lines look."""

    TEXT = "text"
    JSON = "json"


@contextmanager
def about(**values: str | None) -> Generator[None]:
    """Lines written inside say what they are about; None adds nothing."""
    before = _ABOUT.get({})
    token = _ABOUT.set({**before, **{name: value for name, value in values.items() if value is not None}})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def subject(name: str) -> str | None:
    """What `about` says at this moment: `request_id`, say."""
    return _ABOUT.get({}).get(name)


class JsonFormatter(logging.Formatter):
    """One JSON object to a line: time, level, logger, message, what it is about, and fields given with `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ABOUT.get({}),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        plain = {
            name: value if isinstance(value, int | float) else redact(str(value)) for name, value in fields.items()
        }
        return json.dumps(plain, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For a terminal: time, level where it matters, the message, then what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        said = "".join(f" {name}={value}" for name, value in _ABOUT.get({}).items())
        text = redact(f"{time} {level}{_printable(record.getMessage())}{_printable(said)}")
        return text + (f"\n{redact(self.formatException(record.exc_info))}" if record.exc_info else "")


def _printable(text: str) -> str:
    """Without control characters: nobody writes lines of their own, or moves the terminal's cursor."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class ToStandardError(logging.Handler):
    """Whatever standard error is when a line is written: what it was at the start may be closed by then."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # as logging's own handlers: a line that cannot be written ends nothing
            self.handleError(record)


def set_up(form: LogFormat = LogFormat.TEXT, stream: TextIO | None = None) -> None:
    """Send all logs of this process, other packages' too, to standard error (or `stream`) in one form."""
    handler = logging.StreamHandler(stream) if stream else ToStandardError()
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("httpx2", "httpcore2", "botocore", "fsspec", "s3fs"):  # a line for each of their requests
        logging.getLogger(name).setLevel(logging.WARNING)
