"""Links that open one picture to whoever has them, for some hours: clients fetch results without their key."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit


class Links:
    """Signs and checks."""

    def __init__(self, secret: Callable[[], bytes], seconds: float) -> None:
        """`secret` gives what is signed with; it may change, and then no earlier link holds."""
        self._secret, self._seconds = secret, seconds

    def signed(self, url: str) -> str:
        """The same address with a signature of its path."""
        until = str(int(time.time() + self._seconds))
        return f"{url}?until={until}&signature={self._signature(urlsplit(url).path, until)}"

    def opens(self, path: str, query: str) -> bool:
        """Whether a request's query has a signature that holds for its path."""
        try:
            found = parse_qs(query, strict_parsing=True, max_num_fields=4)
            [until], [signature] = found["until"], found["signature"]
            late = not (until.isascii() and until.isdigit() and len(until) < 12) or int(until) < time.time()
        except (ValueError, KeyError):
            return False
        expected = self._signature(path, until).encode()
        return hmac.compare_digest(expected, signature.encode("utf-8", "surrogatepass")) and not late

    def _signature(self, path: str, until: str) -> str:
        return hmac.new(self._secret(), f"{until} {path}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
