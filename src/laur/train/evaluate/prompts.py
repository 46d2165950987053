"""The prompts of an evaluation: those of a file, or those of a prepared set whose concepts are held out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from laur.train.data.reader import TrainingSet

FOLDS = 10
HELD_OUT = 0
"""The fold whose concepts are kept for measuring, where training leaves it out (`data.hold_out`)."""
_KEYS = ("prompt", "caption", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One thing to draw."""

    text: str
    """As a Recipe takes it: what is no weight syntax is escaped."""
    concept: str
    """What it is of, whatever the style: captions of the same concept are no wrong answers to each other."""
    place: int | None = None
    """Of its picture in the set, where it comes from one."""


def concept(name: str) -> str:
    """What a picture of a set is of: its name without number, style, folder and suffix, in small letters.

    "000800 noto/Coral" and "icons/coral.png" are both "coral": one concept lies in one fold, in every style.
    """
    stem = name.replace("\\", "/").rpartition("/")[2]
    return " ".join(re.sub(r"\.[A-Za-z0-9]{2,5}$", "", stem).lower().replace("_", " ").split())


def fold(of: str) -> int:
    """0 … FOLDS - 1 of a concept: by its hash, so the same in every set and on every machine."""
    return int.from_bytes(hashlib.sha256(of.encode()).digest()[:8]) % FOLDS


def places_held_out(data: TrainingSet) -> NDArray[np.bool_]:
    """(n,) which pictures of a set are of the held-out fold."""
    names = data.names(np.arange(len(data)))
    return np.array([fold(concept(name)) == HELD_OUT for name in names], dtype=np.bool_)


def held_out(data: TrainingSet) -> list[Prompt]:
    """Of each picture of the held-out fold its longest caption. Errors: DataError where there is none."""
    from laur.train.conditions import plain_prompt

    kept = np.flatnonzero(places_held_out(data))
    if not len(kept):
        raise DataError(f"none of the {len(data)} pictures of {data.folder} is held out; give --prompts FILE")
    texts = [plain_prompt(max(captions, key=len)) for captions in data.captions(kept)]
    return [
        Prompt(text=text, concept=concept(name), place=int(place))
        for place, name, text in zip(kept, data.names(kept), texts, strict=True)
    ]


def from_file(path: Path) -> list[Prompt]:
    """A prompt a line (.txt), or an object a line with `prompt`, `caption` or `text` (.jsonl). Errors: DataError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8") from None
    made = _objects(path, lines) if path.suffix.lower() in {".jsonl", ".json"} else ({"prompt": x} for x in lines)
    found = [
        Prompt(text=text, concept=str(values.get("concept") or text)) for values in made if (text := _text(values))
    ]
    if not found:
        raise DataError(f"{path} holds no prompt; write one a line")
    return list({prompt.text: prompt for prompt in found}.values())


def chosen(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` of them at most, by their hashes: the same ones whatever their order, and fewer are a part of more."""
    unique = {prompt.text: prompt for prompt in prompts}
    return sorted(unique.values(), key=lambda prompt: hashlib.sha256(prompt.text.encode()).digest())[:count]


def candidates(prompts: Sequence[Prompt], count: int) -> np.ndarray:
    """(n, count) for each prompt places of captions to choose among: its own first, then of other concepts.

    By hash, so the same for every picture of a prompt. Errors: DataError where there are too few other concepts.
    """
    found = np.empty((len(prompts), count), np.int64)
    for number, prompt in enumerate(prompts):
        others = [place for place, other in enumerate(prompts) if other.concept != prompt.concept]
        if len(others) < count - 1:
            raise DataError(f"{len(prompts)} prompts are too few to choose among {count}; give more --pictures")
        others.sort(key=lambda place: hashlib.sha256(f"{prompt.text}\0{prompts[place].text}".encode()).digest())
        found[number] = [number, *others[: count - 1]]
    return found


def _objects(path: Path, lines: Iterable[str]) -> list[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in lines if line.strip()]
    except ValueError:
        raise DataError(f"{path} holds a line that is no JSON") from None
    if not all(isinstance(values, dict) and any(key in values for key in _KEYS) for values in found):
        raise DataError(f"each line of {path} must be an object with {', '.join(_KEYS[:-1])} or {_KEYS[-1]}")
    return found


def _text(values: dict[str, Any]) -> str:
    return next((str(values[key]).strip() for key in _KEYS if key in values), "")
