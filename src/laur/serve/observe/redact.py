"""What must not be read in a log: logins in addresses, keys, tokens."""

from __future__ import annotations

import re

HIDDEN = "***"
_NAMES = r"authorization|cookie|credential|passw(?:or)?d|secret|signature|token(?!s)|(?:api|access)[_-]?key"
_RULES = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@]*@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(bearer|basic)\s+(?!\*)[\w.~+/=-]{4,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (
        re.compile(rf"((?:{_NAMES})[\w-]*[\"']?\s*[=:]\s*[\"']?)(?!(?:bearer|basic)\b)[^\s\"'&,;{{}}]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
)


def redact(text: str) -> str:
    """The text with secrets replaced by three stars."""
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text
