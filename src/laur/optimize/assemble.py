"""From one layer's tensors to its deltas, by the definitions of LyCORIS and PEFT.

LoHa is a product of two low-rank matrices entry by entry, which is exactly low-rank: (A₁B₁) ∘ (A₂B₂) = A · B with
A[o, (i, j)] = A₁[o, i] A₂[o, j] and B[(i, j), n] = B₁[i, n] B₂[j, n], of rank r² (arXiv 2108.06098, proposition 1).
Where r² factors take more room than the matrix itself, the matrix is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from laur.core.errors import MismatchError
from laur.optimize.deltas import Delta, Dense, DoRA, Kronecker, LowRank, Scale
from laur.optimize.kinds import Form
from laur.optimize.layers import LayerShape, shape_message

Factors = Mapping[str, Tensor]
"""By role."""


def assemble(
    name: str, form: Form, factors: Factors, scale: float, layer: LayerShape, *, by_input: bool | None = None
) -> dict[str, Delta]:
    """Deltas by canonical name: of the weight under the layer's name, of the bias under that and ".bias".

    `scale` is alpha / rank; `by_input` says whether an IA3 factor multiplies the layer's input, where settings tell.
    Raises MismatchError where an IA3 factor belongs to the layer's other side.
    """
    found: dict[str, Delta] = {}
    if form.kind == "IA3":
        found |= _ia3(name, factors, layer, by_input)
    elif form.kind != "bias":
        found[name] = _decomposed(_MAKE[form.kind](factors, scale, layer), factors)
    if "diff_b" in factors:
        found[f"{name}.bias"] = Dense(factors["diff_b"])
    if "up_bias" in factors:
        found[f"{name}.bias"] = Dense(factors["up_bias"], scale)
    return found


def _lora(factors: Factors, scale: float, layer: LayerShape) -> Delta:
    del layer
    return LowRank(factors["up"], factors["down"], scale, factors.get("mid"))


def _loha(factors: Factors, scale: float, layer: LayerShape) -> Delta:
    pairs = [_two(factors[f"hada_w{s}_a"], factors[f"hada_w{s}_b"], factors.get(f"hada_t{s}")) for s in (1, 2)]
    (up1, down1), (up2, down2) = pairs
    out, inner = layer.flat
    rank = down1.shape[0] * down2.shape[0]
    if rank * (out + inner) >= out * inner:
        return Dense(((up1 @ down1) * (up2 @ down2)).view(layer.weight), scale)
    up = (up1[:, :, None] * up2[:, None, :]).flatten(1)
    down = (down1[:, None, :] * down2[None, :, :]).flatten(0, 1)
    kernel = layer.weight[2:]
    return LowRank(up.view(out, rank, *(1 for _ in kernel)), down.view(rank, *layer.weight[1:]), scale)


def _lokr(factors: Factors, scale: float, layer: LayerShape) -> Delta:
    left = factors.get("lokr_w1")
    if left is None:
        left = _matrix(*_two(factors["lokr_w1_a"], factors["lokr_w1_b"], None))
    right = factors.get("lokr_w2")
    if right is None:
        right = _matrix(*_two(factors["lokr_w2_a"], factors["lokr_w2_b"], factors.get("lokr_t2")))
    kernel = layer.weight[2:]
    return Kronecker(left, right.reshape(right.shape[0], layer.weight[1] // left.shape[1], *kernel), scale)


def _full(factors: Factors, scale: float, layer: LayerShape) -> Delta:
    del scale, layer
    return Dense(factors["diff"])


_MAKE = {"LoRA": _lora, "LoHa": _loha, "LoKr": _lokr, "full": _full}


def _two(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[Tensor, Tensor]:
    """(out, r) and (r, in · kernel) in float32, in which products of halves are exact."""
    a, b = a.float(), b.float()
    if core is None:
        return a, b
    return a.t(), torch.einsum("ijkl,jn->inkl", core.float(), b).flatten(1)


def _matrix(up: Tensor, down: Tensor) -> Tensor:
    return up @ down


def _decomposed(delta: Delta, factors: Factors) -> Delta:
    """Under DoRA's magnitude, where there is one."""
    if "magnitude" in factors:
        return DoRA(delta, factors["magnitude"].flatten())
    if "dora_scale" not in factors:
        return delta
    magnitude = factors["dora_scale"]
    by_input = magnitude.ndim > 1 and magnitude.shape[0] == 1 < magnitude.shape[1]
    return DoRA(delta, magnitude.flatten(), axis=int(by_input), weighting="lycoris")


def _ia3(name: str, factors: Factors, layer: LayerShape, by_input: bool | None) -> dict[str, Delta]:
    """LyCORIS stores the factor less 1 and leaves the bias; PEFT stores the factor, and scales the output whole.

    PEFT's factors of linears lie along the side that they scale, those of convolutions are (1, n, 1, 1) always.
    """
    if "ia3_l" in factors:
        stored = factors["ia3_l"]
        if by_input is None:
            by_input = stored.ndim > 1 and stored.shape[0] == 1 < stored.shape[1]
        change = Scale(stored.flatten(), axis=int(by_input))
    else:
        stored = factors["ia3_weight"]
        change = Scale((1 + stored.flatten().double()).float(), axis=int(bool(factors["on_input"].flatten()[0])))
    if not change.fits(layer):
        raise MismatchError(shape_message(name, change.made_for, layer))
    scales_bias = "ia3_l" in factors and change.axis == 0 and layer.bias
    return {name: change, **({f"{name}.bias": change} if scales_bias else {})}
