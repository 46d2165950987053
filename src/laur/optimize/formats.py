"""From an adapter file's keys to layer deltas: diffusers, PEFT, kohya and LyCORIS layouts.

First `place` decides from names and shapes alone where every key goes; only then are weights read, by `build`. A file
is placed whole or not at all: what a model has no place for is a MismatchError, except for components that were not
asked for, which the coverage reports.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from laur.core.errors import AdapterError
from laur.optimize.kinds import BIASES, SMALL, Form, form
from laur.optimize.layers import LayerShape, Shape
from laur.optimize.matching import require_match
from laur.optimize.names import Key, LayerIndex, layout, other_kind, parse
from laur.optimize.safetensors_file import Header
from laur.optimize.scales import peft_rank, peft_scale, scales_input

if TYPE_CHECKING:
    from torch import Tensor

    from laur.optimize.deltas import Delta

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
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    """The keys that were placed, each with its layer's canonical name."""
    kinds: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of placed layers by kind: LoRA, LoHa, LoKr, full, IA3, DoRA …"""

    @property
    def components(self) -> Mapping[str, int]:
        """Number of placed layers by component."""
        return Counter(name.partition(".")[0] for name in self.placed)

    @property
    def rest(self) -> str:
        """How many keys are left and why, in words; empty for none."""
        count, reasons = len(self.left), sorted(set(self.left.values()))
        return f"{count} {'key' if count == 1 else 'keys'} left ({'; '.join(reasons)})" if count else ""

    def __str__(self) -> str:
        return f"{len(self.placed)} layers placed{f'; {self.rest}' if self.left else ''}"


@dataclass(frozen=True, slots=True)
class Part:
    """One layer's tensors in a file."""

    key: Key
    """Of one of them."""
    files: Mapping[str, str]
    """Role (down, up, alpha …) to the file's key."""
    form: Form
    """What they are."""

    @property
    def made_for(self) -> Shape:
        """The weight's shape, as far as they tell."""
        return self.form.made_for

    @property
    def rank(self) -> int | None:
        """What alpha is divided by; None where there is none."""
        return self.form.rank

    @property
    def kind(self) -> str:
        """LoRA, LoHa, LoKr, full, IA3, bias; with DoRA's name before it where there are magnitudes."""
        return f"DoRA ({self.form.kind})" if {"magnitude", "dora_scale"} & set(self.files) else self.form.kind


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
        elif "ia3_weight" in roles and "on_input" not in roles:
            raise AdapterError(_refusal(source, roles["ia3_weight"][0], header))
        else:
            found.append(_part(source, roles, header))
    return found, left


def place(source: str, header: Header, layers: Mapping[str, LayerShape]) -> tuple[dict[str, Part], Coverage]:
    """Each of the file's layers by canonical name. Raises AdapterError or MismatchError; reads no weights."""
    found, left = parts(source, header)
    index = LayerIndex(layers)
    if layout(header.tensors) == "PEFT":
        found = _of_encoder(found, index, layers)
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
    require_match(
        source,
        [(part.key, part.form) for part in found],
        [part.key for part in missing],
        {name: part.form for name, part in placed.items()},
        layers,
    )
    keys = {
        key: f"{name}.bias" if role in BIASES else name
        for name, part in placed.items()
        for role, key in part.files.items()
    }
    return placed, Coverage(tuple(placed), left, keys, Counter(part.kind for part in placed.values()))


def _of_encoder(found: list[Part], index: LayerIndex, layers: Mapping[str, LayerShape]) -> list[Part]:
    """PEFT's names do not say which of two text encoders a file is for: it is the one that its shapes fit."""
    text = [part for part in found if part.key.component == "text_encoder"]

    def fitting(component: str) -> int:
        if component not in index:
            return 0
        hits = [(part, index.find(replace(part.key, component=component))) for part in text]
        return sum(hit is not None and part.form.fits(layers[hit[0]]) for part, hit in hits)

    if fitting("text_encoder_2") <= fitting("text_encoder"):
        return found
    return [
        replace(part, key=replace(part.key, component="text_encoder_2"))
        if part.key.component == "text_encoder"
        else part
        for part in found
    ]


def build(
    source: str,
    placed: Mapping[str, Part],
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    layers: Mapping[str, LayerShape],
) -> dict[str, Delta]:
    """The deltas of placed layers, of biases too. Raises AdapterError for values that are no numbers."""
    from laur.optimize.assemble import assemble

    deltas: dict[str, Delta] = {}
    for name, part in placed.items():
        factors = {role: usable(tensors[key]) for role, key in part.files.items() if role != "alpha"}
        if bad := [role for role, factor in factors.items() if not is_finite(factor)]:
            raise AdapterError(f"{source} is damaged: {part.files[bad[0]]} holds values that are not finite numbers")
        scale = _scale(part, tensors, settings)
        if not math.isfinite(scale):
            raise AdapterError(f"{source} is damaged: the alpha of {part.key.layer} is no finite number")
        side = scales_input(settings, part.key) if part.form.kind == "IA3" else None
        for changed, delta in assemble(name, part.form, factors, scale, layers[name], by_input=side).items():
            delta.check(changed, layers[name] if changed == name else LayerShape(layers[name].weight[:1]))
            deltas[changed] = delta
    return deltas


def _scale(part: Part, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> float:
    """alpha / rank; 1 for what has no rank, unless PEFT's settings say one (its LoKr of two whole factors)."""
    rank = part.rank
    if "alpha" in part.files:
        # a stored alpha of 0 stands for the rank in kohya's scripts and LyCORIS
        alpha = float(tensors[part.files["alpha"]].double().sum())
        return alpha if not math.isfinite(alpha) else (alpha or rank) / rank if rank else 1.0
    if rank is None and part.form.kind == "LoKr":
        rank = peft_rank(settings, part.key)
    return peft_scale(settings, part.key, rank) if rank else 1.0


def _part(source: str, roles: Mapping[str, tuple[str, Key]], header: Header) -> Part:
    files = {role: file_key for role, (file_key, _) in roles.items()}
    shapes = {role: header.tensors[file_key].shape for role, file_key in files.items()}
    for role, file_key in files.items():
        dtype = header.tensors[file_key].dtype
        if role in SMALL:
            if math.prod(shapes[role]) != 1:
                raise AdapterError(f"{source} is damaged: {file_key} should be one number")
        elif dtype not in _FLOATS:
            raise AdapterError(f"{source} stores {file_key} as {dtype}; give a file in fp32, fp16, bf16 or fp8")
    name, key = next(iter(roles.values()))
    return Part(key, files, form(source, name, files, shapes))


def _refusal(source: str, name: str, header: Header) -> str:
    kind = other_kind(name)
    if kind is None:
        return f"{source} is no LoRA: it holds {name}; give a LoRA file in .safetensors format"
    count = sum(other_kind(key) == kind for key in header.tensors)
    if kind == "a whole checkpoint":
        return f"{source} is a whole checkpoint, not an adapter; use it as the model"
    return f"{source} holds {kind} ({count} keys), which are not supported; give a plain LoRA or LoCon file"


def usable(tensor: Tensor) -> Tensor:
    """8-bit floats become fp16, which holds all of their values exactly and can be computed with."""
    return tensor.half() if tensor.element_size() == 1 else tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite numbers. By numpy: many small parallel checks crawl on a busy machine."""
    import numpy as np
    import torch

    if tensor.dtype == torch.bfloat16:  # the upper half of a float32; numpy has no such type
        exponent = 0x7F80
        return not bool(((tensor.view(torch.int16).numpy() & exponent) == exponent).any())
    return bool(np.isfinite(tensor.numpy()).all())
