"""The `parameters` text of AUTOMATIC1111's stable-diffusion-webui, as that program writes and reads it.

    PROMPT, on one or more lines, with its <lora:NAME:WEIGHT>
    Negative prompt: …
    Steps: 4, Sampler: LCM, CFG scale: 1, Seed: 7, Size: 256x256, Model hash: 0123456789, Model: mini, …

The last line is a list of `key: value`; a value that holds a comma, a colon or a line break stands in JSON quotes.
What the format cannot hold (a prompt whose line begins with "Negative prompt:", blanks at the end of a line) is lost in
it; our own record beside it holds everything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath

from laur.core.blocks import BlockWeights
from laur.core.errors import LaurError
from laur.core.recipe import AdapterRef, Recipe

SAMPLER_NAMES = {"lcm": "LCM", "tcd": "TCD", "ddim": "DDIM", "euler": "Euler", "dpm++2m": "DPM++ 2M"}
"""Ours to A1111's; TCD is the name that its forks use."""

_NEGATIVE = "Negative prompt:"
_LEAST_FIELDS = 3
"""With fewer `key: value` pairs the last line is prompt."""
_SIZE = re.compile(r"(\d+)x(\d+)")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)+"')
_LORA = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?((?::[^<>]*)?)>")


def write_parameters(
    recipe: Recipe,
    *,
    version: str,
    model: str,
    model_hash: str,
    adapter_hashes: Mapping[str, str],
    words: Mapping[str, tuple[str, str]] | None = None,
) -> str:
    """The text for a filled recipe.

    `adapter_hashes` are by the names in the recipe: the hash without the safetensors header where known (that is
    A1111's own), otherwise sha256. `words` are the textual inversions among its adapters, by name: what the prompt
    calls them, and sha256.
    """
    words = words or {}
    tags = "".join(f" {_tag(ref)}" for ref in recipe.adapters or () if ref.name not in words)
    hashes = {_plain(name): value[:12] for name, value in adapter_hashes.items()}
    learned = {_plain(word): value[:12] for word, value in words.values()}
    fields = {
        "Steps": recipe.steps,
        "Sampler": SAMPLER_NAMES.get(recipe.sampler or "", recipe.sampler),
        "CFG scale": None if recipe.guidance is None else _number(recipe.guidance),
        "Seed": recipe.seed,
        "Size": f"{recipe.width}x{recipe.height}" if recipe.width and recipe.height else None,
        "Model hash": model_hash or None,
        "Model": _plain(model),
        "Denoising strength": _number(recipe.strength) if recipe.image and recipe.strength is not None else None,
        "Mask blur": _number(recipe.mask_blur) if recipe.mask and recipe.mask_blur is not None else None,
        "Clip skip": recipe.clip_skip if recipe.clip_skip > 1 else None,
        # A1111's default draws noise on the GPU; ours is what its "CPU" draws
        "RNG": "CPU",
        "Lora hashes": ", ".join(f"{name}: {value}" for name, value in hashes.items()) or None,
        "TI hashes": ", ".join(f"{name}: {value}" for name, value in learned.items()) or None,
        "Version": version,
    }
    last = ", ".join(f"{key}: {quote(str(value))}" for key, value in fields.items() if value is not None)
    negative = f"\n{_NEGATIVE} {recipe.negative_prompt}" if recipe.negative_prompt else ""
    return f"{recipe.prompt}{tags}{negative}\n{last}".strip()


def quote(text: str) -> str:
    """In JSON quotes if it holds a comma, colon or line break; otherwise as it is."""
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",:\n") else text


def parse_parameters(text: str) -> dict[str, str]:
    """By A1111's rules: `Prompt`, `Negative prompt` and each field of the last line, as text.

    A value such as 256x192 becomes two, `Size-1` and `Size-2`. A text without fields is all prompt; nothing is refused.
    """
    lines = text.strip().split("\n")
    fields = list(read_fields(lines[-1]))
    if len(fields) >= _LEAST_FIELDS:
        lines.pop()
    else:
        fields = []
    prompt, negative = _split_prompts(lines)
    found = {"Prompt": prompt, "Negative prompt": negative}
    for key, raw in fields:
        value = _unquote(raw)
        size = _SIZE.fullmatch(value)
        if size is not None:
            found[f"{key}-1"], found[f"{key}-2"] = size.groups()
        elif value:
            found[key] = value
    found.setdefault("Clip skip", "1")
    return found


def recipe_from_parameters(parsed: Mapping[str, str]) -> Recipe | None:
    """A best effort at what another program's picture asked for; None where the fields do not make a Recipe.

    LoRA tags become adapters. The checkpoint is A1111's model name, which need not be known here.
    """
    prompt = parsed.get("Prompt", "")
    adapters = tuple(_lora(name, weight, rest) for name, weight, rest in _LORA.findall(prompt))
    ours = {theirs.lower(): name for name, theirs in SAMPLER_NAMES.items()}
    try:
        return Recipe(
            prompt=_LORA.sub("", prompt).strip(),
            negative_prompt=parsed.get("Negative prompt", ""),
            seed=int(parsed["Seed"]),
            steps=int(parsed["Steps"]),
            guidance=float(parsed["CFG scale"]),
            width=int(parsed["Size-1"]),
            height=int(parsed["Size-2"]),
            sampler=ours[parsed["Sampler"].lower()],
            checkpoint=parsed.get("Model") or None,
            adapters=adapters,
            clip_skip=int(parsed.get("Clip skip", "1")),
        )
    except (LaurError, KeyError, ValueError):
        return None


def _split_prompts(lines: list[str]) -> tuple[str, str]:
    prompt: list[str] = []
    negative: list[str] = []
    current = prompt
    for line in map(str.strip, lines):
        if line.startswith(_NEGATIVE):
            current = negative
            line = line.removeprefix(_NEGATIVE).strip()  # noqa: PLW2901 - the rest of the same line
        # leading empty lines vanish, as they do in A1111
        if line or current:
            current.append(line)
    return "\n".join(prompt), "\n".join(negative)


def read_fields(line: str) -> Iterator[tuple[str, str]]:
    """`key: value` pairs. A key is word characters, blanks, - and /, of two or more, begun by a word character."""
    place = 0
    while (colon := line.find(":", place)) >= 0:
        start = colon
        while start > place and (_is_word(line[start - 1]) or line[start - 1] in " -/"):
            start -= 1
        while start < colon and not _is_word(line[start]):
            start += 1
        if colon - start < 2:
            place = colon + 1
            continue
        value, place = _value(line, colon + 1)
        yield line[start:colon], value


def _value(line: str, place: int) -> tuple[str, int]:
    """The value from `place` on, and where the next field may begin."""
    while place < len(line) and line[place].isspace():
        place += 1
    quoted = _QUOTED.match(line, place)
    if quoted is not None and (quoted.end() == len(line) or line[quoted.end()] == ","):
        return quoted.group(), quoted.end() + 1
    comma = line.find(",", place)
    end = len(line) if comma < 0 else comma
    return line[place:end], end + 1


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _unquote(text: str) -> str:
    if text.startswith('"') and text.endswith('"'):
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if isinstance(value, str) else text
    return text


def _plain(name: str) -> str:
    """A name as A1111 shows it: a file's without folder and suffix, and without what its syntax uses."""
    path = PurePath(name.replace("\\", "/"))
    name = path.stem if path.suffix in {".safetensors", ".ckpt", ".pt", ".bin"} else path.name
    return re.sub(r"[,:<>\n\r]", "", name)


def _tag(ref: AdapterRef) -> str:
    """Weights by block go where other programs look for options of theirs; the rest has no place in a tag of A1111."""
    blocks = "" if ref.by_block is None else f":{ref.by_block}"
    return f"<lora:{_plain(ref.name)}:{_number(ref.weight)}{blocks}>"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _lora(name: str, weight: str, rest: str) -> AdapterRef:
    try:
        ref = AdapterRef(name=name, weight=float(weight or 1.0))
    except ValueError:
        return AdapterRef(name=name)
    options = [part for part in rest.split(":") if part.lower().startswith("lbw=")]
    try:
        return replace(ref, by_block=BlockWeights.parse(options[0])) if options else ref
    except LaurError:  # a preset, which only its program knows
        return ref
