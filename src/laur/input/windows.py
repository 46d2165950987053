"""From a prompt to windows: as many tokens as the text encoder reads at once.

A longer text fills several windows, each with its own begin and end token, as A1111's web UI does: a window that
would cut a phrase ends at the last comma if that is near, and BREAK begins a new one. The states of the windows are
then set one after the other. Knows tokenizers, not networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from laur.core.errors import CheckpointError, RecipeError
from laur.input.prompt import Segment, parse

BACKTRACK = 20
"""How many tokens back a window may end at a comma."""
WINDOW_LIMIT = 40
"""Longer texts cost attention over thousands of positions and mean nothing to the model."""


class Piece(NamedTuple):
    """One token of a prompt."""

    id: int
    weight: float
    word: int
    """Index into `Reading.words`."""
    vector: int | None = None
    """Row of the learned vectors that stands here, in place of the token's own."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt as its tokenizer reads it."""

    windows: list[list[Piece]]
    """At least one, which may be empty; begin, end and padding are not in it."""
    words: list[str]


@dataclass(frozen=True, slots=True)
class Frame:
    """One full window, ready for the network: each list has the window's length."""

    ids: list[int]
    mask: list[int]
    """1 at begin, text and end; 0 at padding."""
    weights: list[float]
    vectors: Mapping[int, int] = field(default_factory=dict[int, int])
    """Learned vectors, by position: rows of the encoder's table."""


def fill(
    parts: Sequence[Sequence[Piece]], capacity: int, comma: int | None, backtrack: int = BACKTRACK
) -> list[list[Piece]]:
    """Windows of at most `capacity` pieces, in order; each part after the first begins a new one."""
    windows: list[list[Piece]] = []
    current: list[Piece] = []
    for number, part in enumerate(parts):
        if number:
            windows.append(current)
            current = []
        last_comma: int | None = None
        for piece in part:
            if len(current) == capacity:
                cut = capacity
                if piece.id != comma and last_comma is not None and capacity - last_comma <= backtrack:
                    cut = last_comma + 1
                cut = _between_words([*current, piece], cut)
                windows.append(current[:cut])
                current = current[cut:]
                last_comma = None
            elif piece.id == comma:
                last_comma = len(current)
            current.append(piece)
    if current or not windows:
        windows.append(current)
    return windows


def _between_words(pieces: Sequence[Piece], cut: int) -> int:
    """The cut, or one before the learned word that it would part; a word longer than a window is parted."""
    begin = cut
    while begin and pieces[begin].vector is not None and pieces[begin].word == pieces[begin - 1].word:
        begin -= 1
    return begin or cut


class Windower:
    """One tokenizer, and the windows that its text encoder reads. Threads may share it.

    A tokenizer keeps truncation and padding on itself. The first call here turns both off and every later one finds
    them so; whoever needs others takes a tokenizer of their own.
    """

    def __init__(self, tokenizer: Any, positions: int, learned: Mapping[str, range] | None = None) -> None:
        """`positions` is how many the network has; the tokenizer's own limit may be lower.

        `learned` are words with vectors of their own (textual inversion), each with its rows in the encoder's table;
        they are found in any case of letters, between characters that are not of a word.

        Raises CheckpointError where the tokenizer does not frame a text by one begin and one end token.
        """
        self._tokenizer = tokenizer
        frame = self._ids("", framed=True)
        self.size = min(int(tokenizer.model_max_length), positions)
        if len(frame) != 2 or self.size <= 2:
            raise CheckpointError(
                f"the tokenizer frames an empty text by {len(frame)} tokens in windows of {self.size}; "
                "a begin and an end token, as in CLIP and BERT, and windows of 3 or more are supported"
            )
        self._begin, self._end = frame
        self._pad = self._end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        comma = self._ids(",")
        self._comma = comma[0] if len(comma) == 1 else None
        self._learned = {name.lower(): rows for name, rows in (learned or {}).items()}
        longest_first = sorted(self._learned, key=len, reverse=True)
        names = "|".join(map(re.escape, longest_first))
        self._mark = re.compile(rf"(?<!\w)({names})(?!\w)", re.IGNORECASE) if names else None

    def read(self, prompt: str) -> Reading:
        """Raises RecipeError for a text that needs more than WINDOW_LIMIT windows, or that is not valid Unicode."""
        _check_unicode(prompt)
        words: list[str] = []
        parts = [[piece for segment in part for piece in self._pieces(segment, words)] for part in parse(prompt)]
        capacity = self.size - 2
        windows = fill(parts, capacity, self._comma)
        if len(windows) > WINDOW_LIMIT:
            raise RecipeError(
                f"the prompt fills {len(windows)} windows of {capacity} tokens; "
                f"at most {WINDOW_LIMIT} are read; shorten it"
            )
        return Reading(windows, words)

    def frame(self, window: Sequence[Piece]) -> Frame:
        """The window between begin and end, padded to full length; what is not text has weight 1."""
        spare = self.size - len(window) - 2
        ids = [self._begin, *(piece.id for piece in window), self._end, *[self._pad] * spare]
        weights = [1.0, *(piece.weight for piece in window), 1.0, *[1.0] * spare]
        vectors = {1 + place: piece.vector for place, piece in enumerate(window) if piece.vector is not None}
        return Frame(ids, [1] * (self.size - spare) + [0] * spare, weights, vectors)

    def _pieces(self, segment: Segment, words: list[str]) -> list[Piece]:
        """The segment's tokens and learned vectors; its words are appended to `words`."""
        if self._mark is None:
            return self._tokens(segment, words)
        pieces: list[Piece] = []
        for number, text in enumerate(self._mark.split(segment.text)):
            if number % 2 == 0:
                pieces += self._tokens(Segment(text, segment.weight), words)
                continue
            words.append(text)
            # its id is never looked up; that of the beginning is neither a comma nor an end, by which CLIP pools
            rows = self._learned[text.lower()]
            pieces += [Piece(self._begin, segment.weight, len(words) - 1, row) for row in rows]
        return pieces

    def _tokens(self, segment: Segment, words: list[str]) -> list[Piece]:
        read = self._tokenizer(
            segment.text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        pieces: list[Piece] = []
        spans: dict[int, tuple[int, int]] = {}  # index into words: where it stands in the text
        previous = None
        for token, word, (start, end) in zip(read.input_ids, read.word_ids(), read.offset_mapping, strict=True):
            if word is None or word != previous:
                words.append("")
            previous = word
            index = len(words) - 1
            spans[index] = (spans.get(index, (start, end))[0], end)
            pieces.append(Piece(int(token), segment.weight, index))
        for index, (start, end) in spans.items():
            words[index] = segment.text[start:end].strip()
        return pieces

    def _ids(self, text: str, *, framed: bool = False) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=framed, truncation=False, verbose=False).input_ids)


def _check_unicode(prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(f"the prompt has no valid character at position {error.start}; write it in UTF-8") from None
