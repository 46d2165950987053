"""From a LoRA file's keys to layer deltas: diffusers, PEFT and kohya layouts, linear and convolutional, LoCon's middle.

First `place` decides from names and shapes alone where every key goes; only then are weights read, by `build`. A file
is placed whole or not at all: what a model has no place for is a MismatchError, except for components that were not
asked for, which the coverage reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laur.core.errors import AdapterError, MismatchError
from laur.optimize.layers import CROSS_ATTENTION_KEYS, FAMILIES, LayerShape, fits, shape_message
from laur.optimize.names import Key, LayerIndex, other_kind, parse
from laur.optimize.safetensors_file import Header
from laur.optimize.scales import peft_scale

if TYPE_CHECKING:
    from torch import Tensor

    from laur.optimize.deltas import LowRank

_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_BUNDLED = "bundle_emb."
"""Textual inversions that some tools pack into a LoRA file."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Where a file's keys went."""

    placed: tuple[str, ...]
    """Canonical names of the layers that it changes."""
    left: Mapping[str, str]
    """The other keys, each with the reason."""

    def __str__(self) -> str:
        reasons = sorted(set(self.left.values()))
        rest = f"; {len(self.left)} keys left ({'; '.join(reasons)})" if self.left else ""
        return f"{len(self.placed)} layers placed{rest}"


@dataclass(frozen=True, slots=True)
class Part:
    """One layer's tensors in a file."""

    key: Key
    """Of its down factor."""
    files: Mapping[str, str]
    """Role (down, up, mid, alpha) to the file's key."""
    made_for: tuple[int, ...]
    """The weight's shape that the factors give."""
    rank: int


def parts(source: str, header: Header) -> tuple[list[Part], dict[str, str]]:
    """The file's layers, and the keys that belong to none with the reason. Raises AdapterError for what is no LoRA."""
    if not header.tensors:
        raise AdapterError(f"{source} holds no weights; download it again")
    groups: dict[tuple[str, str], dict[str, tuple[str, Key]]] = {}
    left: dict[str, str] = {}
    for name in header.tensors:
        key = parse(name)
        if key is not None:
            roles = groups.setdefault((key.component, key.layer), {})
            if key.role in roles:
                raise AdapterError(f"{source} holds both {roles[key.role][0]} and {name}; one of them must go")
            roles[key.role] = (name, key)
        elif name.startswith(_BUNDLED):
            left[name] = "a textual inversion packed into the file"
        else:
            raise AdapterError(_refusal(source, name, header))
    found: list[Part] = []
    for roles in groups.values():
        if set(roles) == {"alpha"}:
            left[roles["alpha"][0]] = "an alpha without weights"
        else:
            found.append(_part(source, roles, header))
    return found, left


def place(source: str, header: Header, layers: Mapping[str, LayerShape]) -> tuple[dict[str, Part], Coverage]:
    """Each of the file's layers by canonical name. Raises AdapterError or MismatchError; reads no weights."""
    found, left = parts(source, header)
    index = LayerIndex(layers)
    hits: list[tuple[bool, str, Part]] = []
    missing: list[Part] = []
    for part in found:
        if part.key.component not in index:
            left.update(dict.fromkeys(part.files.values(), f"for {part.key.component}, which is not asked for"))
            continue
        hit = index.find(part.key)
        if hit is None:
            missing.append(part)
        else:
            hits.append((hit[1], hit[0], part))
    placed: dict[str, Part] = {}
    # some tools write a layer under both its names; all readers take one of the two, the model's own name first
    for _, name, part in sorted(hits, key=lambda hit: not hit[0]):
        if placed.setdefault(name, part) is not part:
            left.update(dict.fromkeys(part.files.values(), "the same layer again, under another name"))
    _require_match(source, found, missing, placed, layers)
    return placed, Coverage(tuple(placed), left)


def build(
    source: str, placed: Mapping[str, Part], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> dict[str, LowRank]:
    """The deltas of placed layers. Raises AdapterError for values that are no numbers."""
    from laur.optimize.deltas import LowRank

    deltas: dict[str, LowRank] = {}
    for name, part in placed.items():
        factors = {role: _usable(source, tensors[key]) for role, key in part.files.items() if role != "alpha"}
        if bad := [role for role, factor in factors.items() if not _finite(factor)]:
            raise AdapterError(f"{source} is damaged: {part.files[bad[0]]} holds values that are not finite numbers")
        if "alpha" in part.files:
            # a stored alpha of 0 stands for the rank in kohya's scripts and LyCORIS
            scale = (float(tensors[part.files["alpha"]].double().sum()) or part.rank) / part.rank
        else:
            scale = peft_scale(settings, part.key, part.rank)
        if not math.isfinite(scale):
            raise AdapterError(f"{source} is damaged: the alpha of {part.key.layer} is no finite number")
        deltas[name] = LowRank(factors["up"], factors["down"], scale, factors.get("mid"))
    return deltas


def text_width(shapes: Mapping[str, int]) -> int | None:
    """Width of the text states that a UNet reads, from its layers' input widths; None where none tells."""
    return next((width for name, width in shapes.items() if name.endswith(CROSS_ATTENTION_KEYS)), None)


def made_for_width(found: list[Part]) -> int | None:
    """The text width of the model that a file was made for."""
    return text_width({part.key.layer: part.made_for[1] for part in found if part.key.component == "unet"})


def _part(source: str, roles: Mapping[str, tuple[str, Key]], header: Header) -> Part:
    name = next(iter(roles.values()))[0]
    for needed in ("down", "up"):
        if needed not in roles:
            raise AdapterError(f"{source} is incomplete: {name} has no matching {needed} weight; download it again")
    files = {role: file_key for role, (file_key, _) in roles.items()}
    shapes = {role: header.tensors[file_key].shape for role, file_key in files.items()}
    for role, file_key in files.items():
        dtype = header.tensors[file_key].dtype
        if role == "alpha":
            if math.prod(shapes[role]) != 1:
                raise AdapterError(f"{source} is damaged: {file_key} should be one number")
        elif dtype not in _FLOATS:
            raise AdapterError(f"{source} stores {file_key} as {dtype}; give a file in fp32, fp16, bf16 or fp8")
        elif len(shapes[role]) not in {2, 4}:
            raise AdapterError(f"{source} is damaged: {file_key} has {len(shapes[role])} dimensions instead of 2 or 4")
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    if 0 in {*down, *up, *(mid or ())}:
        raise AdapterError(f"{source} has rank 0 at {files['down']}; it holds nothing to draw with")
    inner, outer = math.prod(up[1:]), down[0]
    agree = inner == outer if mid is None else mid[:2] == (inner, outer) and set(down[2:]) <= {1}
    if not agree:
        raise AdapterError(
            f"{source} is damaged: the ranks of {files['up']} ({inner}) and {files['down']} ({outer}) differ"
        )
    kernel = down[2:] if mid is None else mid[2:]
    return Part(roles["down"][1], files, (up[0], down[1], *kernel), outer)


def _refusal(source: str, name: str, header: Header) -> str:
    kind = other_kind(name)
    if kind is None:
        return f"{source} is no LoRA: it holds {name}; give a LoRA file in .safetensors format"
    count = sum(other_kind(key) == kind for key in header.tensors)
    if kind == "a whole checkpoint":
        return f"{source} is a whole checkpoint, not an adapter; use it as the model"
    return f"{source} holds {kind} ({count} keys), which are not supported; give a plain LoRA or LoCon file"


def _usable(source: str, tensor: Tensor) -> Tensor:
    """8-bit floats become fp16, which holds all of their values exactly and can be computed with."""
    return tensor.half() if tensor.element_size() == 1 else tensor


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite numbers. By numpy: many small parallel checks crawl on a busy machine."""
    import numpy as np
    import torch

    if tensor.dtype == torch.bfloat16:  # the upper half of a float32; numpy has no such type
        exponent = 0x7F80
        return not bool(((tensor.view(torch.int16).numpy() & exponent) == exponent).any())
    return bool(np.isfinite(tensor.numpy()).all())


def _require_match(
    source: str, found: list[Part], missing: list[Part], placed: Mapping[str, Part], layers: Mapping[str, LayerShape]
) -> None:
    """Raise MismatchError, naming the plainest difference, unless everything has a place that fits."""
    unfit = [name for name, part in placed.items() if not fits(part.made_for, layers[name])]
    if not unfit and not missing:
        return
    width, own = made_for_width(found), text_width({n: s.weight[1] for n, s in layers.items() if n.startswith("unet.")})
    if width is not None and own is not None and width != own:
        family = FAMILIES.get(width)
        made_for = f"{family} (cross-attention width {width})" if family else f"cross-attention width {width}"
        has = f"{FAMILIES[own]} ({own})" if own in FAMILIES else f"{own}"
        raise MismatchError(
            f"{source} is made for {made_for}; this checkpoint has {has}; choose an adapter made for it, "
            "or --adapter none"
        )
    if missing:
        first = missing[0].key
        raise MismatchError(
            f"{source} is made for another architecture: {len(missing)} of its {len(found)} layers are not in this "
            f"checkpoint, first {first.component}.{first.layer}; choose an adapter made for it"
        )
    raise MismatchError(
        f"{source} does not fit: {shape_message(unfit[0], placed[unfit[0]].made_for, layers[unfit[0]])}"
    )
