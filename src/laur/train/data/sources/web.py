"""Fetching from public servers, politely: few requests a second, waiting longer after each failure, saying who asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from laur.core.errors import MissingDependencyError, UnavailableError

if TYPE_CHECKING:
    from requests import Response, Session

AGENT = "laur (latent consistency models; https://pypi.org/project/lcm-laur)"
BUSY = {429, 502, 503, 504}
"""Answers that speak of the service, not of what was asked for."""
CHUNK = 1 << 18
LONGEST_WAIT = 60.0
"""Seconds, whatever Retry-After asks for."""
TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and between two pieces of an answer."""
_T = TypeVar("_T")


class Refused(Exception):  # noqa: N818 - what was asked for is not to be had; callers decide what that means
    """The server answered, and will not answer better: 404, a picture that is too large, one that is always cut off."""


class Web:
    """One server's manners: at most `per_second` requests, from however many threads."""

    def __init__(
        self,
        per_second: float,
        *,
        tries: int = 5,
        pause: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tries` of each request: the second after `pause` seconds, each later one after twice the wait before."""
        self._gap, self._tries, self._pause = 1 / per_second, tries, pause
        self._sleep, self._clock = sleep, clock
        self._next, self._lock, self._local = 0.0, threading.Lock(), threading.local()

    def get(self, address: str, query: Mapping[str, str] | None = None, *, most: int) -> tuple[bytes, str]:
        """Content and its media type. `most` bytes are taken.

        Raises Refused; UnavailableError where the server cannot be reached or is busy.
        """
        return self._again(address, lambda: self._whole(address, query, most))

    def download(self, address: str, path: Path) -> None:
        """Into `path`; what lies there already is taken for its beginning. Raises as `get` does, and OSError."""
        self._again(address, lambda: self._rest(address, path))

    def _again(self, address: str, attempt: Callable[[], _T]) -> _T:
        requests = _requests()
        wait = self._pause
        for number in range(1, self._tries + 1):
            self._take_turn()
            try:
                return attempt()
            except requests.HTTPError as error:
                status, asked = _said(error.response)
                if status not in BUSY and status < 500:
                    raise Refused(f"the server answers {status}") from None
                failure = UnavailableError(_busy(address, status)) if status in BUSY else Refused(_always(status))
            except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
                asked, failure = 0.0, Refused("its download is cut off each time")
            except requests.RequestException as error:
                asked, failure = 0.0, UnavailableError(_unreachable(address, error))
            if number == self._tries:
                raise failure
            self._sleep(min(LONGEST_WAIT, max(wait, asked)))
            wait *= 2
        raise AssertionError("unreachable: the last try returns or raises")

    def _take_turn(self) -> None:
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            self._sleep(turn - now)

    def _whole(self, address: str, query: Mapping[str, str] | None, most: int) -> tuple[bytes, str]:
        with self._session().get(address, params=query, stream=True, timeout=TIMEOUT) as answer:
            answer.raise_for_status()
            content = bytearray()
            for piece in _pieces(answer):
                content += piece
                if len(content) > most:
                    raise Refused(f"is larger than {most >> 20} MB")
            return bytes(content), answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def _rest(self, address: str, path: Path) -> None:
        have = path.stat().st_size if path.exists() else 0
        # no compression on the way: bytes are counted, and a tarball is compressed already
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with self._session().get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing is left to send
                return
            answer.raise_for_status()
            with path.open("ab" if answer.status_code == 206 else "wb") as file:
                for piece in _pieces(answer):
                    file.write(piece)

    def _session(self) -> Session:
        """One a thread: sessions are not made for several."""
        if not hasattr(self._local, "session"):
            self._local.session = _requests().Session()
            self._local.session.headers["User-Agent"] = AGENT
        return self._local.session


def _pieces(answer: Response) -> Iterator[bytes]:
    return answer.iter_content(CHUNK)


def _requests():
    try:
        import requests
    except ImportError:
        raise MissingDependencyError(
            "fetching pictures needs requests; install it with: pip install 'lcm-laur[train]'"
        ) from None
    return requests


def _said(answer: Response | None) -> tuple[int, float]:
    """Status, and how many seconds Retry-After asks for; dates are not understood."""
    if answer is None:
        return 500, 0.0
    try:
        return answer.status_code, max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        return answer.status_code, 0.0


def _host(address: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(address).netloc or address


def _busy(address: str, status: int) -> str:
    return f"{_host(address)} is busy (it answers {status}); give the same command again later, which goes on"


def _always(status: int) -> str:
    return f"the server answers {status} each time"


def _unreachable(address: str, error: Exception) -> str:
    why = type(error).__name__
    return f"cannot reach {_host(address)} ({why}); when it can be reached, give the same command again, which goes on"
