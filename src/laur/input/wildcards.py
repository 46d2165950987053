r"""Wildcards: {a|b|c} stands for one of its options, drawn by the seed.

    {red|blue} fox         one of two
    {3::red|blue} fox      red three times as often
    {a {small|large}|no} hat    they nest
    \{ \| \}               the character itself

Braces without a bar are text. What is drawn hangs on the text and the seed alone, so a seed means the same everywhere.
"""

from __future__ import annotations

import hashlib
import re

from laur.core.errors import RecipeError

DEPTH_LIMIT = 16
_INNERMOST = re.compile(r"(?<!\\)\{((?:\\.|[^{}\\])*)(?<!\\)\}")
_BAR = re.compile(r"(?<!\\)\|")
_WEIGHT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)::")
_KEPT = "\ue000", "\ue001"
"""Stand for braces that are text while the others are worked out."""


def has_wildcards(prompt: str) -> bool:
    """Whether the prompt leaves anything to be drawn."""
    return "{" in prompt and _expand(prompt, 0) != prompt


def expand(prompt: str, seed: int) -> str:
    """The prompt with each wildcard drawn; the same again where it has none. Raises RecipeError for broken ones."""
    return _expand(prompt, seed) if "{" in prompt else prompt


def _expand(prompt: str, seed: int) -> str:
    text, draws = prompt, 0
    for _ in range(DEPTH_LIMIT):
        before, text = text, ""
        place = 0
        for found in _INNERMOST.finditer(before):
            text += before[place : found.start()]
            place = found.end()
            if _BAR.search(found[1]) is None:
                text += _KEPT[0] + found[1] + _KEPT[1]  # plain braces
                continue
            text += _chosen(_BAR.split(found[1]), _unit(prompt, seed, draws))
            draws += 1
        text += before[place:]
        if text == before:
            return text.replace(_KEPT[0], "{").replace(_KEPT[1], "}")
    raise RecipeError(f"the prompt's wildcards lie more than {DEPTH_LIMIT} deep in each other; use fewer braces")


def _chosen(options: list[str], unit: float) -> str:
    found = [_WEIGHT.match(option) for option in options]
    weights = [float(match[1]) if match else 1.0 for match in found]
    words = [option[match.end() :] if match else option for option, match in zip(options, found, strict=True)]
    if not sum(weights):
        raise RecipeError(f"every option of {{{'|'.join(options)[:60]}}} has weight 0; give one a weight above it")
    mark = unit * sum(weights)
    for word, weight in zip(words, weights, strict=True):
        mark -= weight
        if mark < 0:
            return word
    return next(word for word, weight in reversed(list(zip(words, weights, strict=True))) if weight)


def _unit(prompt: str, seed: int, draw: int) -> float:
    """In [0, 1)."""
    digest = hashlib.sha256(f"{seed}/{draw}/{prompt}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
