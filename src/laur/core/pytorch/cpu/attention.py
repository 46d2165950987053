"""Transformer blocks on (N, pixels, channels), which is what a channels-last map is without a copy.

Queries, keys and values come from one linear, with the softmax scale inside the query weights; the output projection
adds the residual; GEGLU is two linears, the first ending in GELU and the second in the product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from laur.core.pytorch.cpu.linear import PackedLinear
from laur.core.pytorch.cpu.norm import GroupNormSiLU
from laur.core.pytorch.cpu.weights import Packed, Weights

_SCORES_AT_ONCE = 1 << 20
"""Scores a head that are worked on together: they must stay in the cache between the two products."""


def attend(q: Tensor, kt: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """softmax(q · kt + bias) · v as (N, L, heads · D).

    q (N · heads, L, D) already scaled, kt (N · heads, D, S), v (N · heads, S, D), bias (N, 1, S) or None.

    Two products and a softmax beat PyTorch's flash kernel for the CPU at every size tried (one Zen 4 core, bfloat16):
    256x256 with 7 heads of 32 takes 0.70 ms against 1.05, and 4096x4096 with 8 heads of 40, in blocks of queries of one
    head, 225 ms against 321.
    """
    n, length, size, keys = q.shape[0] // heads, q.shape[1], q.shape[2], kt.shape[2]
    bias = None if bias is None else bias.repeat_interleave(heads, 0)
    if length * keys <= _SCORES_AT_ONCE:
        out = _attend(q, kt, v, bias)
    else:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        block = max(32, _SCORES_AT_ONCE // keys)
        for i in range(n * heads):
            row = slice(i, i + 1)
            for start in range(0, length, block):
                some = slice(start, start + block)
                out[row, some] = _attend(q[row, some], kt[row], v[row], None if bias is None else bias[row])
    if n == 1:
        return out.transpose(0, 1).reshape(1, length, heads * size)
    return out.view(n, heads, length, size).transpose(1, 2).reshape(n, length, heads * size)


def _attend(q: Tensor, kt: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    scores = torch.bmm(q, kt)
    if bias is not None:
        scores.add_(bias)
    # the bfloat16 kernel is slow where the last dimension does not fill its vectors: 77 keys 0.31 ms, this way 0.15
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype) if kt.shape[2] % 32 else scores.softmax(-1)
    return torch.bmm(weights, v)


def split_heads(x: Tensor, parts: int, heads: int) -> Sequence[Tensor]:
    """(N, L, parts · heads · D) to `parts` of (N · heads, L, D), views where N is 1.

    Few operators on purpose: on small maps each costs as much as what it does.
    """
    n, length, channels = x.shape
    size = channels // (parts * heads)
    if n == 1:
        return x.view(length, parts, heads, size).permute(1, 2, 0, 3).unbind(0)
    split = x.view(n, length, parts, heads, size).permute(2, 0, 3, 1, 4)
    return split.reshape(parts, n * heads, length, size).unbind(0)


class LayerNorm(Packed):
    """Over the last dimension, with parameters in the network's dtype."""

    def __init__(self, weights: Weights, name: str, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        self._weights, self._name, self._dtype = weights, name, dtype
        self._shape, self._eps = norm.normalized_shape, norm.eps
        self._affine: tuple[Tensor | None, Tensor | None] | None = None
        weights.watch(self, (f"{name}.weight", f"{name}.bias"))

    def forget(self) -> None:
        """Read weight and bias again at the next call."""
        self._affine = None

    def __call__(self, x: Tensor) -> Tensor:
        """(…, C) normalised over C."""
        if self._affine is None:
            weight, bias = (self._weights.get(f"{self._name}.{leaf}") for leaf in ("weight", "bias"))
            self._affine = (
                None if weight is None else weight.to(self._dtype),
                None if bias is None else bias.to(self._dtype),
            )
        return torch.layer_norm(x, self._shape, *self._affine, self._eps)


class SelfAttention:
    """x + attention among the pixels of each row."""

    def __init__(self, weights: Weights, name: str, heads: int, scale: float, dtype: torch.dtype) -> None:
        self._heads = heads
        names = [f"{name}.to_{part}" for part in "qkv"]
        self._qkv = PackedLinear(weights, names, dtype, scales=(scale, 1.0, 1.0))
        self._out = PackedLinear(weights, [f"{name}.to_out.0"], dtype)

    def __call__(self, x: Tensor, normed: Tensor) -> Tensor:
        """(N, L, C)."""
        q, k, v = split_heads(self._qkv(normed), 3, self._heads)
        # the product is 17 % faster on keys that lie together, which more than pays for the copy
        return self._out(attend(q, k.contiguous().transpose(1, 2), v, self._heads), add=x)


class CrossAttention:
    """x + attention to the text."""

    def __init__(self, weights: Weights, name: str, heads: int, scale: float, dtype: torch.dtype) -> None:
        self._heads = heads
        self._q = PackedLinear(weights, [f"{name}.to_q"], dtype, scales=(scale,))
        self.names = (f"{name}.to_k", f"{name}.to_v")
        self._kv = PackedLinear(weights, [f"{name}.to_k", f"{name}.to_v"], dtype)
        self._out = PackedLinear(weights, [f"{name}.to_out.0"], dtype)

    def project(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, transposed, and values of one row's context (1, S, D): (heads, D, S) and (heads, S, D)."""
        k, v = split_heads(self._kv(context), 2, self._heads)
        return k.transpose(1, 2).contiguous(), v.contiguous()

    def __call__(self, x: Tensor, normed: Tensor, text: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        """(N, L, C); `text` as `project` gives it, rows one after the other."""
        (q,) = split_heads(self._q(normed), 1, self._heads)
        return self._out(attend(q, *text, self._heads, bias), add=x)


class GEGLU:
    """x + linear(a · gelu(b)), where a and b are two linears of the normalised x (arXiv 2002.05202)."""

    def __init__(self, weights: Weights, name: str, width: int, dtype: torch.dtype) -> None:
        self._value = PackedLinear(weights, [f"{name}.net.0.proj"], dtype, rows=slice(0, width))
        self._gate = PackedLinear(weights, [f"{name}.net.0.proj"], dtype, rows=slice(width, None))
        self._out = PackedLinear(weights, [f"{name}.net.2"], dtype)

    def __call__(self, x: Tensor, normed: Tensor) -> Tensor:
        """(N, L, C)."""
        return self._out(self._value(normed, times=self._gate(normed, activation="gelu")), add=x)


class TransformerBlock:
    """Self-attention, cross-attention, feed-forward, each on a normalised input and added to it."""

    def __init__(
        self,
        norms: tuple[LayerNorm, LayerNorm, LayerNorm],
        attention: SelfAttention,
        cross: CrossAttention,
        feed_forward: GEGLU,
    ) -> None:
        self._norms, self._self, self.cross, self._feed_forward = norms, attention, cross, feed_forward

    def __call__(self, x: Tensor, text: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        """(N, L, C)."""
        norm1, norm2, norm3 = self._norms
        x = self._self(x, norm1(x))
        x = self.cross(x, norm2(x), text, bias)
        return self._feed_forward(x, norm3(x))


class Transformer:
    """A map through transformer blocks: norm, projection in, blocks, projection out, residual."""

    def __init__(
        self, norm: GroupNormSiLU, proj_in: PackedLinear, blocks: list[TransformerBlock], proj_out: PackedLinear
    ) -> None:
        self._norm, self._in, self.blocks, self._out = norm, proj_in, blocks, proj_out

    def __call__(self, x: Tensor, texts: list[tuple[Tensor, Tensor]], bias: Tensor | None) -> Tensor:
        """(N, C, H, W) channels last; `texts` has one pair for each block."""
        n, c, h, w = x.shape
        tokens = self._in(self._norm(x).permute(0, 2, 3, 1).reshape(n, h * w, c))
        for block, text in zip(self.blocks, texts, strict=True):
            tokens = block(tokens, text, bias)
        y = self._out(tokens, add=x.permute(0, 2, 3, 1).reshape(n, h * w, c))
        return y.view(n, h, w, c).permute(0, 3, 1, 2)
