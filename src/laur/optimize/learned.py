"""LearnedWord: a textual inversion as an adapter, so that recipes name it, record it and find it again as all others.

It changes no weight: its vectors stand in the texts of its row wherever its word does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import AdapterError
from laur.optimize.base import BaseAdapter
from laur.optimize.safetensors_file import Written
from laur.optimize.textual import TextualInversion, is_textual

if TYPE_CHECKING:
    from laur.optimize.layers import LayerShape

_QUERY = re.compile(r"(text_encoder(?:_2)?)\..*\b(?:q_proj|query|q)")


class LearnedWord(BaseAdapter):
    """The vectors of one file. Making one reads the header alone; AdapterError says what is wrong with it."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or path.stem
        self.written = Written.of(path)
        self.inversion = TextualInversion(path)

    @property
    def word(self) -> str:
        """What prompts call it: the word in the file, or the file's name."""
        return self.inversion.token

    @property
    def is_there(self) -> bool:
        """Whether its file is where it was and has not been written since, so that the vectors can be read."""
        return self.written.same

    @property
    def sha256(self) -> str:
        """Of the file."""
        return self.inversion.sha256

    def check(self, layers: Mapping[str, LayerShape]) -> None:
        """Raise MismatchError if it was made for other text encoders."""
        self.inversion.check(widths(layers))


def widths(layers: Mapping[str, LayerShape]) -> dict[str, int]:
    """Of each text encoder's tokens, by component, as its layers tell."""
    found = {part[1]: shape.weight[1] for name, shape in layers.items() if (part := _QUERY.fullmatch(name))}
    if not found:
        raise AdapterError("the model's text encoder cannot take learned words; leave textual inversions out")
    return found


def words_in(text: str, names: Iterable[str]) -> list[str]:
    """Those of the names that the text says, in any case of letters, as whole words; longest first."""
    lowered = text.lower()
    likely = sorted((name for name in names if name.lower() in lowered), key=lambda name: (-len(name), name))
    return [name for name in likely if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)]


def is_learned_word(path: Path) -> bool:
    """Whether a file is a textual inversion; False too for what cannot be read."""
    try:
        return is_textual(path)
    except AdapterError:
        return False
