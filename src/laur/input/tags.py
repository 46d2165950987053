"""`<lora:name:0.8>` in a prompt, as A1111 has it: the tag goes, the adapter comes.

A second number (A1111's own weight for the text encoder) must equal the first, since an adapter has one weight here.
Where an adapter acts may stand at the end, as in `<lora:ink:0.8@left>`; see AdapterRef.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from laur.core.errors import RecipeError
from laur.core.recipe import AdapterRef

_TAG = re.compile(r"\s*<(?:lora|lyco):([^<>:]+)((?::[^<>:]*)*)>")


def take(prompt: str) -> tuple[str, tuple[AdapterRef, ...]]:
    """The prompt without its tags, and what they name, in order. Raises RecipeError for a tag that makes no sense."""
    if "<" not in prompt:
        return prompt, ()
    refs = tuple(_ref(found) for found in _TAG.finditer(prompt))
    return (_TAG.sub("", prompt).strip(), refs) if refs else (prompt, ())


def with_words(prompt: str, words: Iterable[str]) -> str:
    """The prompt with those of the words appended that it does not say already."""
    for word in words:
        if not _says(prompt, word):
            prompt = f"{prompt.rstrip().rstrip(',')}, {word}" if prompt.strip() else word
    return prompt


def without_words(prompt: str, words: Iterable[str]) -> str:
    """The prompt without words that `with_words` put at its end."""
    for word in reversed(tuple(words)):
        prompt = prompt.removesuffix(f", {word}")
    return prompt


def _says(prompt: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt, re.IGNORECASE) is not None


def _ref(found: re.Match[str]) -> AdapterRef:
    name, rest = found[1].strip(), [part.strip() for part in found[2].split(":")[1:]]
    tail = ""
    if rest and "@" in rest[-1]:
        rest[-1], _, where = rest[-1].partition("@")
        tail = f"@{where}"
    weights = {part for part in rest if part}
    if len(weights) > 1:
        raise RecipeError(
            f"{found[0].strip()} has two weights; one counts for the whole adapter: write <lora:{name}:{rest[0]}>"
        )
    weight = weights.pop() if weights else "1"
    try:
        float(weight)
    except ValueError:
        raise RecipeError(f"{found[0].strip()} has the weight {weight!r}; write <lora:{name}:0.8>") from None
    return AdapterRef.parse(f"{name}:{weight}{tail}")
