"""The one tree of errors.

Every message is one line that names the value, the limit and the remedy, so that the command line and the HTTP
server can show it as it is. Anything else that escapes is a bug and keeps its stack trace.

    LaurError
    ├── RecipeError             a wish that cannot be fulfilled: steps, size, prompt, sampler …
    ├── NotFoundError           no model, adapter, sampler or format of that name
    ├── CheckpointError         weights that cannot be read, or are not a Stable Diffusion model
    │   └── AmbiguousError      the file cannot tell (prediction type, say): the user must
    ├── AdapterError            an adapter that cannot be read
    │   └── MismatchError       an adapter made for another architecture
    ├── PictureError            a picture file that cannot be read
    ├── DataError               pictures, captions or a prepared set that cannot be used
    ├── TrainingError           a training run that cannot start or go on
    ├── ResourceError           too little memory for what was asked
    ├── OutputError             a result that cannot be written: full disk, read-only folder
    ├── MissingDependencyError  an optional package that is not installed
    ├── BusyError               a queue that is full: come back in `retry_after` seconds
    ├── LimitError              an API key has drawn what it may
    ├── KeysError               a file of API keys that cannot be used
    ├── UnavailableError        a service that we stand on (Redis) does not answer
    └── NumericalError          a network gave NaN or infinity
"""

from __future__ import annotations

import re

_BREAKS = re.compile(r"\s*[\t-\r\x85\u2028\u2029]\s*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class LaurError(Exception):
    """Base of all errors that a user can cause or cure. `str(error)` is one line."""

    exit_code: int = 2
    """What the command line exits with."""
    http_status: int = 422
    """What an HTTP API answers with."""

    def __str__(self) -> str:
        """Line breaks in what is quoted are blanks, other control characters are escaped: neither a log nor a terminal
        can be written to through a name."""
        line = _BREAKS.sub(" ", super().__str__())
        return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", line)


class RecipeError(LaurError):
    """A value of a Recipe is outside what can be drawn."""


class NotFoundError(LaurError):
    """Nothing of that name is known; the message lists what is."""

    http_status = 404


class CheckpointError(LaurError):
    """Weights that cannot be read or are not a model of a supported family."""


class AmbiguousError(CheckpointError):
    """The file does not determine how it must be sampled, and Laur does not guess."""


class AdapterError(LaurError):
    """An adapter file that cannot be read or holds values that cannot be used."""


class MismatchError(AdapterError):
    """An adapter made for another architecture than the checkpoint's."""


class PictureError(LaurError):
    """A picture file that is missing, damaged or of no format that can be read."""


class DataError(LaurError):
    """Pictures, captions or a prepared set that cannot be used for training or measuring."""


class TrainingError(LaurError):
    """A training configuration that cannot run, or a run that cannot go on."""


class ResourceError(LaurError):
    """The estimate of the memory needed exceeds what is there."""

    http_status = 413


class OutputError(LaurError):
    """A result cannot be written; nothing half-written is left behind."""

    http_status = 507


class MissingDependencyError(LaurError):
    """An optional package is needed; the message holds the command that installs it."""

    http_status = 501


class BusyError(LaurError):
    """The queue is full. HTTP answers 429 with Retry-After."""

    http_status = 429
    exit_code = 1

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which room is likely."""


class LimitError(LaurError):
    """An API key has drawn what it may. HTTP answers 429 with Retry-After."""

    http_status = 429
    exit_code = 1

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = max(1, round(retry_after + 0.5))
        """Seconds after which it may again."""


class KeysError(LaurError):
    """A file of API keys that cannot be read, or says what it cannot."""

    http_status = 500


class UnavailableError(LaurError):
    """A service that we stand on does not answer. HTTP answers 503 with Retry-After."""

    http_status = 503
    exit_code = 1
    retry_after = 10
    """Seconds after which it may."""


class NumericalError(LaurError):
    """NaN or infinity came out of a network; the message names the first layer that gave it."""

    http_status = 500
    exit_code = 1
