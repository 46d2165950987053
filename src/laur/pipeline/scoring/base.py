"""What a scorer is, and how one is found by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from laur.core.checkpoint import Family
from laur.core.errors import NotFoundError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

DEFAULT = "mini"
GROUP = "laur.scorers"
"""Entry points of packages that bring scorers."""
_SHIPPED = {DEFAULT: "laur.pipeline.scoring.mini"}
"""Modules whose import registers the name."""
_MAKERS: dict[str, Callable[[torch.device], Scorer]] = {}
M = TypeVar("M", bound="Callable[[torch.device], Scorer]")


class Scorer(ABC):
    """Says how well pictures fit prompts: higher is better. Scores of two scorers cannot be compared."""

    name: str
    """Which, for people."""
    key: str
    """Of its weights: scores that are kept are kept under it."""

    @abstractmethod
    def scores(self, pixels: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, m) of pictures (n, H, W, 3) with m prompts."""


def default_scorer(family: Family) -> str | None:
    """The name of the one that knows what such checkpoints draw; None where none that ships does."""
    return DEFAULT if family is Family.MINI else None


def register(name: str) -> Callable[[M], M]:
    """Register a Scorer's class (or whatever makes one from a device) under a name; the later one counts."""

    def decorate(maker: M) -> M:
        _MAKERS[name] = maker
        return maker

    return decorate


def find_scorer(name: str, device: torch.device) -> Scorer:
    """By a registered name, by that of an installed package's, or by the path of a CLIP model's folder.

    Errors: NotFoundError, CheckpointError.
    """
    if name in _SHIPPED and name not in _MAKERS:
        importlib.import_module(_SHIPPED[name])
    if name not in _MAKERS:
        _ask_packages(name)
    if name in _MAKERS:
        return _MAKERS[name](device)
    folder = Path(name)
    if folder.is_dir():
        from laur.pipeline.scoring.clip import ClipScorer

        return ClipScorer(folder, device)
    known = ", ".join(sorted({*_SHIPPED, *_MAKERS}))
    raise NotFoundError(f"there is no scorer {name!r}; known are {known}, or give the folder of a CLIP model")


def _ask_packages(name: str) -> None:
    """Register what an installed package offers under that name. Errors: NotFoundError where it cannot be imported."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP, name=name):
        try:
            maker = entry.load()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise NotFoundError(f"scorer {name!r} ({entry.value}) cannot be imported: {reason}") from error
        _MAKERS.setdefault(name, maker)
