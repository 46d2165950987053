"""Learned words (textual inversion) in recipes: found by name where a prompt says them, and what they allow."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import LaurError, MismatchError, RecipeError
from laur.optimize.learned import LearnedWord, is_learned_word, words_in
from laur.optimize.textual import MOST_VECTORS, WIDTHS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from laur.core.recipe import AdapterRef, Recipe
    from laur.optimize import BaseAdapter
    from laur.pipeline.library import Library


_LARGEST = MOST_VECTORS * sum(WIDTHS) * 8
"""Bytes that no file of learned words exceeds: larger ones are not looked into."""


def check_ref(ref: AdapterRef, adapter: BaseAdapter) -> None:
    """Raise RecipeError where a recipe weighs a learned word as only weights of layers can be."""
    if not isinstance(adapter, LearnedWord):
        return
    odd = [name for name in ("by_block", "phases", "region") if getattr(ref, name) is not None]
    if odd or ref.weight not in {0.0, 1.0}:
        what = odd[0].replace("_", " ") if odd else f"weight {ref.weight:g}"
        raise RecipeError(
            f"{ref.name} is a learned word and has no {what}; weigh it in the prompt: ({adapter.word}:0.8)"
        )


def said(text: str, library: Library) -> Iterator[tuple[str, LearnedWord]]:
    """Learned words of the user's folder that a text says, by name: what the file calls them, or what it is called."""
    from laur.optimize.catalogue import user_folder

    folder = user_folder()
    try:
        names, words = _names(folder, folder.stat().st_mtime_ns)
    except OSError:
        return
    likely = [name for name in words_in(text, names) if is_learned_word(names[name])]
    likely += [words[word] for word in words_in(text, words)]
    for name in dict.fromkeys(likely):
        try:
            adapter = library.adapter(name)
        except LaurError:  # a damaged file, or a name that this library does not give; to name it would say so
            continue
        if isinstance(adapter, LearnedWord) and words_in(text, [adapter.word]):
            yield name, adapter


def unsaid(recipe: Recipe, adapters: Iterable[tuple[AdapterRef, BaseAdapter]]) -> list[str]:
    """What to tell of words that neither prompt says."""
    text = f"{recipe.prompt}\n{recipe.negative_prompt}"
    return [
        f"{ref.name} has no effect: neither prompt says its word, {adapter.word}"
        for ref, adapter in adapters
        if isinstance(adapter, LearnedWord) and ref.weight and not words_in(text, [adapter.word])
    ]


def of_refiner(refs: Iterable[AdapterRef], refiner: str, library: Library) -> tuple[AdapterRef, ...]:
    """The learned words that a refiner's text encoder takes too; it has none of the other adapters."""
    return tuple(ref for ref in refs if _is_taken(ref, refiner, library))


def _is_taken(ref: AdapterRef, refiner: str, library: Library) -> bool:
    adapter = library.by_content(ref.sha256 or "")
    if not isinstance(adapter, LearnedWord):
        return False
    try:
        library.require_fit(refiner, adapter)
    except MismatchError:
        return False
    return True


@lru_cache(maxsize=4)
def _names(folder: Path, changed: int) -> tuple[dict[str, Path], dict[str, str]]:
    """Files by name, and names by the word in the file where that is another; `changed` is when the folder did last."""
    from laur.optimize.catalogue import folder_names

    del changed
    names = folder_names(folder)
    words: dict[str, str] = {}
    for name, path in names.items():
        try:
            found = path.stat()
        except OSError:
            continue
        word = _word(path, found.st_mtime_ns, found.st_size) if found.st_size <= _LARGEST else None
        if word is not None and word != name:
            words.setdefault(word, name)
    return names, words


@lru_cache(maxsize=1 << 16)
def _word(path: Path, changed: int, size: int) -> str | None:
    """What a file of this time and size calls its word; None for what is none, or is damaged."""
    del changed, size
    try:
        return LearnedWord(path).word if is_learned_word(path) else None
    except LaurError:
        return None
