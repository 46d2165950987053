"""Sums, multiples, shorter ranks and differences of adapters, as new deltas by canonical layer name.

What is linear stays exact: a sum of low-rank differences is their factors side by side (rank r₁ + r₂), a multiple is
another scale, a negative weight takes away. Only `rerank` and `extract` lose anything, and they say how much. A DoRA
(not linear in its weight) and an IA3 (a multiple of the base weight) can be drawn with and merged into weights, but not
added to others without the base: those raise AdapterError.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from laur.core.errors import AdapterError, MismatchError
from laur.optimize.deltas import Delta, Dense, Kronecker, LowRank

Deltas = Mapping[str, Delta]
"""By canonical name of the layer, or that and ".bias"."""

_EXACT_SIDE = 768
"""Matrices with a longer shorter side are decomposed by random projection (arXiv 0909.4061), if a rank is asked for."""
_OVERSAMPLING, _POWER_ITERATIONS = 16, 6


@dataclass(frozen=True, slots=True)
class Loss:
    """What was lost, relative to what there was, in the Frobenius norm over all layers' weights."""

    lost: Mapping[str, float]
    """Norm of what is missing, by layer."""
    there: Mapping[str, float]
    """Norm of the whole, by layer."""

    @property
    def error(self) -> float:
        """Over all layers: sqrt(Σ ‖missing‖² / Σ ‖whole‖²); 0 where there was nothing."""
        whole = math.hypot(*self.there.values())
        return math.hypot(*self.lost.values()) / whole if whole else 0.0

    def of(self, layer: str) -> float:
        """Of one layer."""
        return self.lost[layer] / self.there[layer] if self.there[layer] else 0.0


def scaled(deltas: Deltas, weight: float) -> dict[str, Delta]:
    """weight · Δ, exactly. Raises AdapterError for DoRA and IA3, which no scale can be put on."""
    return {name: _scaled(name, delta, weight) for name, delta in deltas.items()}


def total(terms: Sequence[tuple[Deltas, float]]) -> dict[str, Delta]:
    """Σ weight · Δ: low-rank differences side by side, others of a layer as one matrix. Weights of 0 say nothing.

    A layer that one term alone changes keeps its factors bit for bit, with another scale. Raises AdapterError for DoRA
    and IA3, MismatchError where two terms were made for weights of different shapes.
    """
    summands: dict[str, list[Delta]] = {}
    for deltas, weight in terms:
        if weight:
            for name, delta in scaled(deltas, weight).items():
                summands.setdefault(name, []).append(delta)
    return {name: _sum(name, parts) for name, parts in summands.items()}


def matrix(name: str, delta: Delta) -> Tensor:
    """Δ as a float32 tensor of the weight's shape. Raises AdapterError for DoRA and IA3."""
    _require_linear(name, delta)
    shape = [side or 0 for side in delta.made_for]
    zeros = torch.zeros(shape)
    delta.add_to(zeros, zeros)
    return zeros


def rounded(deltas: Deltas, dtype: torch.dtype) -> dict[str, Delta]:
    """The same as they are once their tensors were stored in `dtype`."""
    found: dict[str, Delta] = {}
    for name, delta in deltas.items():
        one: Any = delta
        parts = {entry.name: getattr(one, entry.name) for entry in dataclasses.fields(one)}
        stored = {key: part.to(dtype).float() for key, part in parts.items() if isinstance(part, torch.Tensor)}
        found[name] = dataclasses.replace(one, **stored)
    return found


@torch.no_grad()
def distance(wanted: Iterable[tuple[str, Tensor]], deltas: Deltas) -> float:
    """|wanted - Δ| / |wanted| over all layers (Frobenius); `wanted` gives Δ as it should be, by name."""
    lost = there = 0.0
    for name, difference in wanted:
        there += _norm(difference) ** 2
        lost += _norm(difference - matrix(name, deltas[name]).view(difference.shape)) ** 2
    return math.sqrt(lost / there) if there else 0.0


@torch.no_grad()
def rerank(deltas: Deltas, *, rank: int | None = None, error: float | None = None) -> tuple[dict[str, Delta], Loss]:
    """The best low-rank differences (Eckart-Young) of one `rank`, or per layer of the least within relative `error`.

    Biases stay whole. Low-rank ones go by a decomposition of their factors, at a cost of r² · (out + in).
    """
    _require_aim(rank, error)
    found: dict[str, Delta] = {}
    lost, there = dict[str, float](), dict[str, float]()
    for name, delta in deltas.items():
        if name.endswith(".bias"):
            found[name] = delta
            continue
        _require_linear(name, delta)
        shape = tuple(side or 0 for side in delta.made_for)
        if isinstance(delta, LowRank):
            u, s, v = _decomposed_product(delta)
            keep = _kept(s, rank, error)
            found[name] = _from_svd(u, s, v, keep, shape)
            lost[name], there[name] = _norm(s[keep:]), _norm(s)
        else:
            whole = matrix(name, delta)
            u, s, v = _decomposed(whole, rank)
            kept = _from_svd(u, s, v, _kept(s, rank, error), shape)
            # of the whole: a random projection gives no more singular values than were asked for
            found[name], lost[name], there[name] = kept, _norm(kept.apply(whole, -1.0)), _norm(whole)
    return found, Loss(lost, there)


@torch.no_grad()
def extract(
    tuned: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    *,
    rank: int | None = None,
    error: float | None = None,
    biases: bool = False,
) -> tuple[dict[str, Delta], Loss]:
    """tuned - base as a LoRA: of one `rank`, or per layer of the least rank within the relative `error`.

    Both hold weights of linear and convolutional layers by canonical parameter name ("unet.conv_in.weight"); what is
    equal in both is left out. With `biases` the differences of biases come too, whole. Raises MismatchError where the
    two are of different architectures.
    """
    _require_aim(rank, error)
    if tuned.keys() != base.keys():
        odd = sorted(tuned.keys() ^ base.keys())[0]
        raise MismatchError(f"the two checkpoints are of different architectures: only one has {odd}")
    found: dict[str, Delta] = {}
    lost, there = dict[str, float](), dict[str, float]()
    for name, tensor in base.items():
        if tensor.shape != tuned[name].shape:
            raise MismatchError(f"{name} is {_sides(tuned[name])} in one checkpoint and {_sides(tensor)} in the other")
        difference = tuned[name].float() - tensor.float()
        if not difference.any():
            continue
        if name.endswith(".bias"):
            if biases:
                found[name] = Dense(difference)
            continue
        if not bool(torch.isfinite(difference).all()):
            raise AdapterError(f"the difference at {name} is no finite number; one of the checkpoints is damaged")
        layer = name.removesuffix(".weight")
        u, s, v = _decomposed(difference, rank)
        kept = _from_svd(u, s, v, _kept(s, rank, error), tuple(tensor.shape))
        found[layer], there[layer] = kept, _norm(difference)
        # of what is stored, not of what the decomposition promises
        lost[layer] = _norm(kept.apply(difference, -1.0))
    return found, Loss(lost, there)


def by_block(
    deltas: Deltas, weights: Mapping[str, float], default: float = 1.0, weight: float = 1.0
) -> list[tuple[dict[str, Delta], float]]:
    """Terms for `merged_state` or `total`, with another weight for some blocks.

    `weights` go by the beginning of canonical names ("unet.down_blocks.1", "unet.mid_block", "text_encoder"), up to a
    dot; the longest that fits counts, and `default` where none does. All are multiplied by `weight`. Each kind of delta
    allows it, DoRA too. Raises AdapterError for a block that no layer is in.
    """
    groups: dict[float, dict[str, Delta]] = {}
    unused = set(weights)
    for name, delta in deltas.items():
        fitting = [block for block in weights if name == block or name.startswith(f"{block}.")]
        unused.difference_update(fitting)
        own = weights[max(fitting, key=len)] if fitting else default
        groups.setdefault(own * weight, {})[name] = delta
    if unused:
        raise AdapterError(
            f"no layer of the adapter is in {sorted(unused)[0]!r}; name a block such as 'unet.mid_block'"
        )
    return [(group, own) for own, group in groups.items()]


def phases(weights: Sequence[float]) -> list[tuple[range, float]]:
    """One weight for each step, as runs of steps that share theirs: each run is one merge. Steps count from 0."""
    found: list[tuple[range, float]] = []
    for step, weight in enumerate(weights):
        if found and found[-1][1] == weight:
            found[-1] = range(found[-1][0].start, step + 1), weight
        else:
            found.append((range(step, step + 1), weight))
    return found


# ------------------------------------------------------------------------------------- sums


def _require_linear(name: str, delta: Delta) -> None:
    if not isinstance(delta, LowRank | Dense | Kronecker):
        raise AdapterError(
            f"{name} has a {type(delta).__name__} difference, which depends on the base weight; "
            "extract a LoRA from the merged checkpoint instead"
        )


def _scaled(name: str, delta: Delta, weight: float) -> Delta:
    _require_linear(name, delta)
    assert isinstance(delta, LowRank | Dense | Kronecker)
    return dataclasses.replace(delta, scale=delta.scale * weight)


def _sum(name: str, parts: list[Delta]) -> Delta:
    if len(parts) == 1:
        return parts[0]
    shapes = {tuple(side for side in part.made_for if side != 1) for part in parts}
    if len(shapes) > 1:
        raise MismatchError(f"the adapters were made for weights of different shapes at {name}; they cannot be added")
    low = [part for part in parts if isinstance(part, LowRank)]
    if len(low) < len(parts):
        widest = max((matrix(name, part) for part in parts), key=lambda found: found.ndim)
        result = torch.zeros_like(widest)
        for part in parts:
            result += matrix(name, part).view_as(result)
        return Dense(result)
    return _side_by_side(low)


def _side_by_side(parts: list[LowRank]) -> LowRank:
    """Factors in float32; the scales go into the up factors unless all are the same."""
    scales = {part.scale for part in parts}
    common = scales.pop() if len(scales) == 1 else None
    factors = [part.factors() for part in parts]
    ups = [up if common is not None else up * part.scale for part, (up, _) in zip(parts, factors, strict=True)]
    up, down = torch.cat(ups, dim=1), torch.cat([down for _, down in factors])
    shape = max((part.made_for for part in parts), key=len)
    return _low_rank(up, down, tuple(side or 0 for side in shape), 1.0 if common is None else common)


def _low_rank(up: Tensor, down: Tensor, shape: tuple[int, ...], scale: float = 1.0) -> LowRank:
    kernel = shape[2:]
    rank = down.shape[0]
    return LowRank(up.reshape(shape[0], rank, *(1 for _ in kernel)), down.reshape(rank, *shape[1:]), scale)


# --------------------------------------------------------------------------- decompositions


def _require_aim(rank: int | None, error: float | None) -> None:
    if (rank is None) == (error is None):
        raise AdapterError("give either a rank or an error")
    if rank is not None and rank < 1:
        raise AdapterError(f"rank is {rank}; it must be at least 1")
    if error is not None and not 0 <= error < 1:
        raise AdapterError(f"error is {error:g}; it must be from 0 to below 1")


def _kept(s: Tensor, rank: int | None, error: float | None) -> int:
    """How many singular values; at least 1."""
    if rank is not None:
        return min(rank, len(s))
    assert error is not None
    squares = s.double().square()
    missing = squares.flip(0).cumsum(0).flip(0)  # what is lost when this value and all after it go
    allowed = (error**2) * squares.sum()
    return max(int((missing > allowed).sum()), 1)


def _decomposed_product(delta: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, Vᵀ of scale · up · down, in float64 and without the whole matrix."""
    up, down = (factor.double() for factor in delta.factors())
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.t())
    u, s, v = torch.linalg.svd(delta.scale * r_up @ r_down.t())
    return q_up @ u[:, : len(s)], s, v[: len(s)] @ q_down.t()


def _decomposed(difference: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    flat = difference.flatten(1)
    if rank is None or min(flat.shape) <= _EXACT_SIDE:
        return torch.linalg.svd(flat, full_matrices=False)
    generator_state = torch.get_rng_state()
    try:  # svd_lowrank draws from the global generator: the same weights must give the same LoRA
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(flat, q=min(rank + _OVERSAMPLING, *flat.shape), niter=_POWER_ITERATIONS)
    finally:
        torch.set_rng_state(generator_state)
    return u, s, v.t()


def _from_svd(u: Tensor, s: Tensor, v: Tensor, keep: int, shape: tuple[int, ...]) -> LowRank:
    """The square root of each singular value goes to either side, so that both keep within half precision's range."""
    roots = s[:keep].sqrt()
    up, down = (u[:, :keep] * roots).float(), (roots[:, None] * v[:keep]).float()
    return _low_rank(up.contiguous(), down.contiguous(), shape)


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _sides(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def ranks(deltas: Deltas) -> list[int]:
    """Of the low-rank ones, each once, rising."""
    return sorted({delta.rank for delta in _low_ranks(deltas)})


def _low_ranks(deltas: Deltas) -> Iterable[LowRank]:
    return (delta for delta in deltas.values() if isinstance(delta, LowRank))
