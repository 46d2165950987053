"""API keys: a file that holds their hashes, each with its tenant and limits.

    [[key]]
    tenant = "acme"
    sha256 = "…"                 # of the key; `laur keys new` makes both
    requests_per_second = 5.0    # the rest may be left out
    burst = 20
    pictures_per_day = 1000
    pixels_per_day = 500_000_000
    metrics = false              # may read /metrics
    expires = 2027-01-31

A key has 256 random bits, so one round of SHA-256 keeps it; what is presented is compared with every entry in constant
time. The file is read again when it changes: taking a key out shuts it out within seconds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import secrets
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from laur.core.errors import KeysError
from laur.serve.job import is_tenant

LOG = logging.getLogger(__name__)
PREFIX = "laur_"
LONGEST = 200
"""Characters of what is taken for a key."""
LOOK_AGAIN = 2.0
"""Seconds between looks at the file's time."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key, without the key itself."""

    tenant: str
    """Whose jobs it makes and sees."""
    sha256: str
    requests_per_second: float | None = None
    burst: int | None = None
    """Requests that may come at once; by default what two seconds allow."""
    pictures_per_day: int | None = None
    """From midnight to midnight, UTC; what is answered without being drawn does not count."""
    pixels_per_day: int | None = None
    metrics: bool = False
    expires: date | None = None
    """The first day on which it opens nothing, UTC."""

    @property
    def id(self) -> str:
        """What counters are named by."""
        return self.sha256[:24]

    @property
    def bucket(self) -> int:
        """`burst`, or its default."""
        return self.burst or max(1, round(2 * (self.requests_per_second or 1)))

    def is_expired(self) -> bool:
        """Whether its day has come."""
        return self.expires is not None and datetime.now(UTC).date() >= self.expires


class Keys:
    """All of a file."""

    def __init__(self, path: Path) -> None:
        """Raises KeysError for a file that cannot be read or is wrong."""
        self._path = path
        self._keys = read(path)
        self._at, self._stamp = time.monotonic(), self._now()

    def find(self, secret: str | None) -> Key | None:
        """The entry of a key that opens something."""
        self._look()
        if secret is None or len(secret) > LONGEST:
            return None
        digest = hash_of(secret)
        found = None
        for key in self._keys:  # all of them, whatever is found
            if hmac.compare_digest(digest, key.sha256):
                found = key
        return None if found is None or found.is_expired() else found

    @property
    def secret(self) -> bytes:
        """The same for all servers with the same file: what links are signed with."""
        self._look()
        text = " ".join(sorted(key.sha256 for key in self._keys))
        return hashlib.sha256(f"links {text}".encode()).digest()

    def _look(self) -> None:
        if time.monotonic() - self._at < LOOK_AGAIN:
            return
        self._at = time.monotonic()
        if (stamp := self._now()) == self._stamp:
            return
        try:
            self._keys, self._stamp = read(self._path), stamp
        except KeysError as error:  # half written, perhaps: the old ones hold until it can be read
            LOG.error("%s; the keys read before stay in force", error)

    def _now(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_size


def read(path: Path) -> tuple[Key, ...]:
    """The entries of a file. Raises KeysError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KeysError(f"the keys in {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeysError(f"the keys in {path} are not TOML: {' '.join(str(error).split())[:200]}") from None
    entries = table.get("key")
    if not isinstance(entries, list) or not entries or set(table) != {"key"}:
        raise KeysError(f"{path} must hold [[key]] tables and nothing else; `laur keys new` writes one")
    keys = tuple(_key(entry, f"{path}, key {number}") for number, entry in enumerate(entries, 1))
    if len({key.sha256 for key in keys}) < len(keys):
        raise KeysError(f"{path} holds the same key twice; a key has one tenant")
    return keys


def new(tenant: str) -> tuple[str, Key]:
    """A new key and its entry. Raises KeysError for what is no tenant's name."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, _key({"tenant": tenant, "sha256": hash_of(secret)}, "the new key")


def hash_of(secret: str) -> str:
    """What the file holds of it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def presented(authorization: str | None) -> str | None:
    """The key in an Authorization header: Bearer, Replicate's Token, or Basic, where it is the password."""
    scheme, _, rest = (authorization or "").strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() in {"bearer", "token"}:
        return rest or None
    if scheme.lower() != "basic" or len(rest) > 4 * LONGEST:
        return None
    try:
        return base64.b64decode(rest, validate=True).decode("utf-8").partition(":")[2] or None
    except (binascii.Error, ValueError):
        return None


_KINDS: dict[str, tuple[type, ...]] = {
    "tenant": (str,),
    "sha256": (str,),
    "requests_per_second": (int, float),
    "burst": (int,),
    "pictures_per_day": (int,),
    "pixels_per_day": (int,),
    "metrics": (bool,),
    "expires": (date,),
}


def _key(values: Any, place: str) -> Key:
    if not isinstance(values, Mapping):
        raise KeysError(f"{place} is not a table")
    known = {field.name for field in fields(Key)}
    for name, value in values.items():
        if name not in known:
            raise KeysError(f"{place}: there is no {str(name)[:40]!r}; there are {', '.join(sorted(known))}")
        kinds = _KINDS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds) or type(value) is datetime:
            raise KeysError(f"{place}: {name} is {str(value)[:40]!r}; it must be a {kinds[-1].__name__}")
        if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < 2**53:
            raise KeysError(f"{place}: {name} is {value}; it must be above 0")
    tenant, digest = values.get("tenant", ""), values.get("sha256", "")
    if not is_tenant(tenant):
        raise KeysError(f"{place}: a tenant is 1 to 64 letters, digits and . _ @ -, not {tenant[:80]!r}")
    if not _SHA256.fullmatch(digest):
        raise KeysError(f"{place}: sha256 is 64 hexadecimal digits in lower case, as `laur keys new` writes them")
    return Key(**values)
