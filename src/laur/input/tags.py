"""`<lora:name:0.8>` in a prompt, as A1111 has it: the tag goes, the adapter comes.

Two numbers are A1111's weights of the text encoder and of the denoiser. Factors by block, weights by parts of the run
and where an adapter acts are written as in AdapterRef.parse: `<lora:ink:0.8:mid=0@left>`, `<lora:ink:0.2,0.8@0.5>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile

from laur.core.errors import RecipeError
from laur.core.recipe import AdapterRef

_TAG = re.compile(r"\s*<(?:lora|lyco):([^<>:]+)((?::[^<>:]*)*)>")
_NUMBER_AT = re.compile(r"([^@,=]+)(@.*)")


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
    tag, name = found[0].strip(), found[1].strip()
    rest = [part.strip() for part in found[2].split(":") if part.strip()]
    where = ""
    if rest and (tail := _NUMBER_AT.fullmatch(rest[-1])):
        rest[-1], where = tail.groups()
    weights = [float(part) for part in takewhile(_is_number, rest)]
    rest = rest[len(weights) :]
    if len(weights) > 2 or (len(set(weights)) == 2 and rest):
        raise RecipeError(
            f"{tag} has too many weights; write one, and factors of it by block: <lora:{name}:{weights[-1]:g}:text=0.5>"
        )
    # two are A1111's: of the text encoder, then of the denoiser
    two = len(set(weights)) == 2
    parts = [f"text={weights[0]!r},unet={weights[1]!r}"] if two else [*map(repr, weights[:1]), *rest]
    try:
        ref = AdapterRef.parse(":".join([name, *parts]) + where)
    except RecipeError as error:
        raise RecipeError(f"{tag}: {error}") from None
    if ref.name != name:
        raise RecipeError(f"{tag} has the weight {''.join(rest) + where!r}; write <lora:{name}:0.8>")
    return ref


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
