"""What the tensors that a file holds for one layer are: LoRA, LoHa, LoKr, a full difference, IA3; DoRA on top.

`form` looks at shapes alone and raises AdapterError for what cannot be; `laur.optimize.assemble` makes the delta.
Definitions: LoRA arXiv 2106.09685; LoCon, LoHa, LoKr arXiv 2309.14859; DoRA arXiv 2402.09353; IA3 arXiv 2205.05638.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from laur.core.errors import AdapterError
from laur.optimize.layers import LayerShape, Shape, fits

Shapes = Mapping[str, tuple[int, ...]]
"""By role."""
Files = Mapping[str, str]
"""Role to the file's key."""

SMALL = frozenset({"alpha", "on_input"})
"""Single numbers, which may be integers."""
_MAGNITUDES = ("magnitude", "dora_scale")
BIASES = ("diff_b", "up_bias")
"""What changes a layer's bias: a difference, and the bias of LoRA's second factor (PEFT's `lora_bias`)."""
_EITHER = {
    "lokr_w1": ("lokr_w1_a", "lokr_w1_b"),
    "lokr_w2": ("lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "magnitude": ("dora_scale",),
    "diff_b": ("up_bias",),
}
"""Two ways to store one thing."""
_DIMENSIONS = {
    **dict.fromkeys(("down", "up", "lokr_w2", "diff"), (2, 4)),
    **dict.fromkeys(("mid", "hada_t1", "hada_t2", "lokr_t2"), (4,)),
    **dict.fromkeys(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "lokr_w1"), (2,)),
    **dict.fromkeys(("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"), (2,)),
}


@dataclass(frozen=True, slots=True)
class Form:
    """What the shapes of one layer's tensors say."""

    kind: str
    """LoRA, LoHa, LoKr, full, IA3 or bias (nothing but a difference of the bias)."""
    made_for: Shape
    """The weight's shape; for IA3 one number, of channels; empty for a bias alone."""
    rank: int | None = None
    """What alpha is divided by."""
    flat: bool = False
    """Whether the kernel is folded into the inputs: (out, in · kernel)."""
    divides: int = 1
    """What the layer's inputs must be a multiple of, beside."""
    bias: int | None = None
    """Numbers that are added to the bias."""

    def fits(self, layer: LayerShape) -> bool:
        """Whether the layer's weight has that shape, and its bias that size."""
        return self.weight_fits(layer) and (self.bias is None or (layer.bias and self.bias == layer.weight[0]))

    def weight_fits(self, layer: LayerShape) -> bool:
        """Whether the layer's weight has that shape."""
        if self.kind == "bias":
            return True
        if self.kind == "IA3":
            return self.made_for[0] in layer.weight[:2]
        if layer.weight[1] % self.divides:
            return False
        return self.made_for == layer.flat if self.flat else fits(self.made_for, layer)


def kind_of(roles: Collection[str]) -> str:
    """By the roles of a layer's tensors; "" where there is nothing but alphas and magnitudes."""
    for kind, marks in _MARKS.items():
        if any(role.startswith(marks) for role in roles if role not in BIASES):
            return kind
    return "bias" if "diff_b" in roles else ""


_MARKS = {
    "LoRA": ("up", "down", "mid"),
    "LoHa": ("hada_",),
    "LoKr": ("lokr_",),
    "full": ("diff",),
    "IA3": ("ia3_", "on_input"),
}


def form(source: str, layer: str, files: Files, shapes: Shapes) -> Form:
    """Of the tensors of one layer. Raises AdapterError, one line, for what does not go together."""
    for role, shape in shapes.items():
        if 0 in shape:
            raise AdapterError(f"{source} has rank 0 at {files[role]}; it holds nothing to draw with")
        allowed = _DIMENSIONS.get(role)
        if allowed is not None and len(shape) not in allowed:
            raise AdapterError(
                f"{source} is damaged: {files[role]} has {len(shape)} dimensions instead of "
                f"{' or '.join(map(str, allowed))}"
            )
    kind = kind_of(files)
    strangers = [role for role in files if kind_of([role]) not in {kind, "bias", ""}]
    strangers += [role for role in files if role == "up_bias" and kind != "LoRA"]
    if strangers:
        raise AdapterError(
            f"{source} mixes {kind} and {files[strangers[0]]} in one layer; it cannot be told which holds"
        )
    if kind in {"", "IA3", "bias"} and (extra := [role for role in files if role in _MAGNITUDES]):
        raise AdapterError(f"{source} is incomplete: {files[extra[0]]} has no weights beside it; download it again")
    for one, others in _EITHER.items():
        if one in files and (other := next((role for role in others if role in files), None)):
            raise AdapterError(
                f"{source} holds both {files[one]} and {files[other]}; it cannot be told which counts; remove one"
            )
    found = _FORMS[kind](_Layer(source, layer, files, shapes))
    biases = [math.prod(shape) for role, shape in shapes.items() if role in BIASES]
    return replace(found, bias=biases[0]) if biases else found


@dataclass(frozen=True, slots=True)
class _Layer:
    source: str
    name: str
    files: Files
    shapes: Shapes

    def need(self, *roles: str) -> list[tuple[int, ...]]:
        for role in roles:
            if role not in self.shapes:
                raise AdapterError(
                    f"{self.source} is incomplete: {self.name} has no matching {role} weight; download it again"
                )
        return [self.shapes[role] for role in roles]

    def agree(self, one: str, inner: int, other: str, outer: int) -> None:
        if inner != outer:
            raise AdapterError(
                f"{self.source} is damaged: the ranks of {self.files[one]} ({inner}) and {self.files[other]} "
                f"({outer}) differ"
            )


def _lora(layer: _Layer) -> Form:
    down, up = layer.need("down", "up")
    mid = layer.shapes.get("mid")
    if mid is None:
        layer.agree("up", math.prod(up[1:]), "down", down[0])
    else:
        layer.agree("up", math.prod(up[1:]), "mid", mid[0])
        layer.agree("mid", mid[1], "down", math.prod(down) // down[1])
    return Form("LoRA", (up[0], down[1], *(down[2:] if mid is None else mid[2:])), down[0])


def _loha(layer: _Layer) -> Form:
    sides = [_pair(layer, f"hada_w{side}_a", f"hada_w{side}_b", f"hada_t{side}") for side in (1, 2)]
    if sides[0] != sides[1]:
        raise AdapterError(f"{layer.source} is damaged: the two products of {layer.name} have different shapes")
    shape, flat = sides[0]
    return Form("LoHa", shape, layer.shapes["hada_w1_b"][0], flat)


def _lokr(layer: _Layer) -> Form:
    left, _ = _factor(layer, 1)
    right, flat = _factor(layer, 2)
    ranks = [layer.shapes[key][0] for key in ("lokr_w1_b", "lokr_w2_b") if key in layer.shapes]
    # a right factor of two dimensions may have a kernel in its second
    return Form(
        "LoKr", (left[0] * right[0], left[1] * right[1], *right[2:]), ranks[0] if ranks else None, flat, divides=left[1]
    )


def _factor(layer: _Layer, side: int) -> tuple[tuple[int, ...], bool]:
    whole = f"lokr_w{side}"
    if whole in layer.shapes:
        return layer.shapes[whole], len(layer.shapes[whole]) == 2
    return _pair(layer, f"{whole}_a", f"{whole}_b", f"lokr_t{side}")


def _pair(layer: _Layer, a: str, b: str, core: str) -> tuple[tuple[int, ...], bool]:
    """The shape of a · b, or of Tucker's product with a core, and whether a kernel may hide in it."""
    left, right = layer.need(a, b)
    middle = layer.shapes.get(core)
    if middle is None:
        layer.agree(a, left[1], b, right[0])
        return (left[0], right[1]), True
    layer.agree(a, left[0], core, middle[0])
    layer.agree(core, middle[1], b, right[0])
    return (left[1], right[1], *middle[2:]), False


def _full(layer: _Layer) -> Form:
    return Form("full", layer.shapes["diff"])


def _ia3(layer: _Layer) -> Form:
    role = "ia3_l" if "ia3_l" in layer.shapes else "ia3_weight"
    (shape,) = layer.need(role)
    if role == "ia3_weight":
        layer.need("on_input")
    if not shape or math.prod(shape) != max(shape):
        raise AdapterError(f"{layer.source} is damaged: {layer.files[role]} should have one factor for each channel")
    return Form("IA3", (max(shape),))


def _bias(layer: _Layer) -> Form:
    del layer
    return Form("bias", ())


_FORMS = {"LoRA": _lora, "LoHa": _loha, "LoKr": _lokr, "full": _full, "IA3": _ia3, "bias": _bias}
