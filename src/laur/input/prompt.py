r"""The attention syntax of A1111's web UI, which artists share prompts in.

    (word)      weight 1.1        (word:1.3)  weight 1.3        [word]   weight 1/1.1
    BREAK       begins a new window of the text encoder
    \( \) \[ \] \\                the character itself

Brackets nest and their weights multiply. Broken syntax never fails, it means what it means there: a bracket that is
not closed reaches to the end, a bracket that was not opened is text, a colon without a number is text, a backslash
before any other character is dropped. Round and square brackets are matched apart from each other, so they may cross.

Two things differ on purpose: BREAK breaks inside brackets too, and weights beyond any use are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from laur.core.errors import RecipeError

WEIGHT_LIMIT = 10.0
"""Weights beyond this, either way, only destroy the picture."""
DEPTH_LIMIT = 64
"""Brackets of one kind open at the same time; keeps the time to read a prompt linear in its length."""
STRONGER = 1.1
WEAKER = 1 / 1.1

_MARK = re.compile(
    r"""
    \\(?P<escaped>[()\[\]\\]?)
    | (?P<open>[(\[])
    | :\s*(?P<weight>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\)
    | (?P<close>[)\]])
    | (?P<text>[^\\()\[\]:]+|:)
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_OPENS = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text of one weight."""

    text: str
    weight: float = 1.0


@dataclass(slots=True)
class _Run:
    """A piece of text while its brackets are still being found; None is a BREAK."""

    text: str | None
    weight: float = 1.0


@dataclass(slots=True)
class _Reader:
    """Runs so far, and for each kind of bracket the runs at which one was opened."""

    runs: list[_Run] = field(default_factory=list)
    opened: dict[str, list[int]] = field(default_factory=lambda: {"(": [], "[": []})

    def open(self, bracket: str) -> None:
        starts = self.opened[bracket]
        if len(starts) == DEPTH_LIMIT:
            raise RecipeError(
                f"the prompt opens more than {DEPTH_LIMIT} brackets {bracket!r} inside each other; "
                f"close them, or write \\{bracket} for the character itself"
            )
        starts.append(len(self.runs))

    def close(self, bracket: str, weight: float) -> bool:
        """Weigh everything since the bracket was opened; False where none was."""
        starts = self.opened[bracket]
        if not starts:
            return False
        for run in self.runs[starts.pop() :]:
            run.weight *= weight
        return True

    def text(self, text: str) -> None:
        first, *others = _BREAK.split(text)
        self.runs.append(_Run(first))
        for part in others:
            self.runs += [_Run(None), _Run(part)]

    def mark(self, found: re.Match[str]) -> None:
        escaped, bracket, weight, closing, _ = found.groups()
        if escaped is not None:
            self.runs.append(_Run(escaped))
        elif bracket is not None:
            self.open(bracket)
        elif weight is not None:
            if not self.close("(", float(weight)):
                self.text(found[0])
        elif closing is None or not self.close(_OPENS[closing], STRONGER if closing == ")" else WEAKER):
            self.text(found[0])


def parse(prompt: str) -> list[list[Segment]]:
    """The prompt's parts, between its BREAKs, each as segments of one weight; neighbours of equal weight are one.

    Raises RecipeError for weights beyond WEIGHT_LIMIT and for absurdly deep nesting.
    """
    reader = _Reader()
    for found in _MARK.finditer(prompt):
        reader.mark(found)
    while reader.close("(", STRONGER) or reader.close("[", WEAKER):
        pass
    return _parts(reader.runs)


def _parts(runs: Iterable[_Run]) -> list[list[Segment]]:
    parts: list[list[Segment]] = [[]]
    for run in runs:
        if run.text is None:
            parts.append([])
        elif run.text:
            weight = _checked(run.text, run.weight)
            part = parts[-1]
            if part and part[-1].weight == weight:
                part[-1] = Segment(part[-1].text + run.text, weight)
            else:
                part.append(Segment(run.text, weight))
    return parts


def _checked(text: str, weight: float) -> float:
    if text.strip() and not abs(weight) <= WEIGHT_LIMIT:
        raise RecipeError(
            f"the weight of {text.strip()[:40]!r} is {weight:.6g}; "
            f"weights go from {-WEIGHT_LIMIT:g} to {WEIGHT_LIMIT:g}, and 0.5 to 1.5 is usual"
        )
    return round(weight, 6)  # 1.1 / 1.1 is 1, whatever the order of the brackets
