"""What this machine and this PyTorch can do."""

from __future__ import annotations

from functools import cache

import torch

_OPERATORS = (
    "_convolution_pointwise",
    "_convolution_pointwise_",
    "_linear_pointwise",
    "_reorder_convolution_weight",
    "_reorder_linear_weight",
    "_get_mkldnn_serialized_md",
)


@cache
def supported(dtype: torch.dtype) -> bool:
    """Whether the fused operators exist here and give the right numbers in this dtype.

    They are PyTorch's own but not documented, so each is tried on a small example before it is trusted: bfloat16 also
    needs a processor that computes in it (AVX-512 or ARM's bf16), else it would be emulated and slow.
    """
    if dtype not in {torch.float32, torch.bfloat16} or not torch.backends.mkldnn.is_available():
        return False
    try:
        operators = torch.ops.mkldnn
        if not all(hasattr(operators, name) for name in _OPERATORS):
            return False
        if dtype is torch.bfloat16 and not operators._is_mkldnn_bf16_supported():
            return False
        with torch.inference_mode():
            return _convolution_agrees(dtype) and _linear_agrees(dtype) and _norm_agrees(dtype)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _close(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> bool:
    return torch.allclose(a.float(), b.float(), rtol=0, atol=1e-4 if dtype is torch.float32 else 0.1)


def _convolution_agrees(dtype: torch.dtype) -> bool:
    x = torch.linspace(-1, 1, 16 * 36).view(1, 16, 6, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.linspace(-0.1, 0.1, 16 * 16 * 9).view(16, 16, 3, 3).to(dtype)
    bias = torch.linspace(-1, 1, 16).to(dtype)
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, [1, 1], [1, 1], [1, 1], 1, [1, 16, 6, 6])
    numbers = ([1, 1], [1, 1], [1, 1], 1)
    wanted = torch.conv2d(x.float(), weight.float(), bias.float(), padding=1)
    plain = torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *numbers, "relu", [], "")
    added = torch.ops.mkldnn._convolution_pointwise.binary(x, x, packed, bias, *numbers, "add", 1.0, "relu", [], "")
    sums = torch.ops.mkldnn._convolution_pointwise_.binary(
        x.clone(memory_format=torch.channels_last), x, packed, bias, *numbers, "add", 1.0, None, [], ""
    )
    return (
        _close(plain, wanted.relu(), dtype)
        and _close(added, (wanted + x.float()).relu(), dtype)
        and _close(sums, wanted + x.float(), dtype)
    )


def _linear_agrees(dtype: torch.dtype) -> bool:
    x = torch.linspace(-1, 1, 8 * 32).view(1, 8, 32).to(dtype)
    weight = torch.linspace(-0.1, 0.1, 32 * 32).view(32, 32).to(dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 8)
    wanted = torch.nn.functional.linear(x.float(), weight.float())
    gelu = torch.ops.mkldnn._linear_pointwise(x, packed, None, "gelu", [], "none")
    product = torch.ops.mkldnn._linear_pointwise.binary(x, x, packed, None, "mul")
    return _close(gelu, torch.nn.functional.gelu(wanted), dtype) and _close(product, wanted * x.float(), dtype)


def _norm_agrees(dtype: torch.dtype) -> bool:
    x = torch.linspace(-1, 2, 4 * 36).view(1, 4, 6, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    mean, variance = torch.batch_norm_update_stats(x, torch.zeros(4), torch.ones(4), 0.0)
    wanted_variance, wanted_mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    return mean.dtype is torch.float32 and _close(mean, wanted_mean, dtype) and _close(variance, wanted_variance, dtype)
