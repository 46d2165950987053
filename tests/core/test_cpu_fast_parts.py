"""The parts of the fast CPU network: decoders, resampling, the cache of texts."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.nn import functional

from laur.core.pytorch.cpu import accelerate_decoder, supported
from laur.core.pytorch.cpu.attention import attend, split_heads
from laur.core.pytorch.cpu.context import ContextCache
from laur.core.pytorch.cpu.norm import GroupNormSiLU
from laur.core.pytorch.cpu.packed import PackedConv
from laur.core.pytorch.cpu.resample import OutputConv, UpsampleConv
from laur.core.pytorch.cpu.weights import Weights

pytestmark = pytest.mark.skipif(not supported(torch.float32), reason="this PyTorch has no fused oneDNN operators")


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(5, 8), (1, 1), (16, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_upsampling_inside_the_convolution_is_exact(size: tuple[int, int], bias: bool):
    conv = torch.nn.Conv2d(16, 24, 3, padding=1, bias=bias).requires_grad_(False)
    fast = UpsampleConv(Weights(torch.nn.ModuleDict({"up": conv})), "up", torch.float32)
    x = last(torch.randn(2, 16, *size))
    torch.testing.assert_close(fast(x), conv(functional.interpolate(x, scale_factor=2.0)), rtol=1e-5, atol=1e-5)
    wide = (2 * size[0] + 1, 2 * size[1])
    torch.testing.assert_close(fast(x, wide), conv(functional.interpolate(x, size=wide)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (7, 3)])
def test_patches_of_few_channels_are_exact(size: tuple[int, int]):
    conv = torch.nn.Conv2d(16, 3, 3, padding=1).requires_grad_(False)
    fast = OutputConv(Weights(torch.nn.ModuleDict({"out": conv})), "out", torch.float32)
    x = last(torch.randn(2, 16, *size))
    torch.testing.assert_close(fast(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [8, 56])
def test_norm_far_from_zero_keeps_its_precision(channels: int):
    """A mean a thousand times the spread: the variance must not come from a difference of squares."""
    norm = torch.nn.GroupNorm(8, channels).requires_grad_(False)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    fast = GroupNormSiLU(Weights(torch.nn.ModuleDict({"n": norm})), "n", norm)
    x, shift = torch.randn(2, channels, 8, 8) * 0.1 + 100, torch.randn(2, channels)
    wanted = functional.silu(norm.double()((x + shift[:, :, None, None]).double()))
    torch.testing.assert_close(fast(last(x), shift).double(), wanted, rtol=0, atol=5e-3)
    norm.float()


@pytest.mark.parametrize(("length", "keys"), [(64, 77), (64, 64), (1100, 1000)])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_equals_pytorchs(length: int, keys: int, masked: bool):
    q, k, v = torch.randn(2, length, 32) / 4, torch.randn(2, keys, 32), torch.randn(2, keys, 32)
    seen = torch.rand(2, keys) > (0.3 if masked else -1)
    bias = (~seen[:, None]).float() * -10000 if masked else None
    q, k, v = (split_heads(x, 1, 4)[0] for x in (q, k, v))
    fast = attend(q, k.transpose(1, 2), v, 4, bias)
    heads = [x.view(2, 4, -1, 8) for x in (q, k, v)]
    wanted = functional.scaled_dot_product_attention(*heads, seen[:, None, None], scale=1.0)
    torch.testing.assert_close(fast, wanted.transpose(1, 2).reshape(2, length, 32), rtol=1e-4, atol=1e-5)


def test_sizes_share_a_packing():
    """Memory does not grow with the number of sizes that were drawn."""
    conv = torch.nn.Conv2d(32, 32, 3, padding=1).requires_grad_(False)
    fast = PackedConv.of(Weights(torch.nn.ModuleDict({"c": conv})), "c", conv, torch.float32)
    for size in range(4, 60):
        x = last(torch.randn(1, 32, size, 8))
        torch.testing.assert_close(fast(x), conv(x), rtol=1e-5, atol=1e-5)
    kept = {id(packed) for packed in fast._sizes.values()}
    assert len(fast._sizes) == 32
    assert len(kept) <= 2


class TestContextCache:
    def make(self, limit: int = 1 << 20) -> tuple[ContextCache, list[Tensor]]:
        computed: list[Tensor] = []

        def project(row: Tensor, _: object) -> list[tuple[Tensor, Tensor]]:
            computed.append(row)
            return [(row.transpose(1, 2) * 2, row * 3)]

        return ContextCache(project, limit), computed

    def test_a_text_is_computed_once_whoever_asks(self):
        cache, computed = self.make()
        a, b = torch.randn(5, 4), torch.randn(5, 4)
        first = cache([a, b])[0][0].clone()
        for _ in range(3):
            assert torch.equal(cache([a, b.clone()])[0][0], first)
        cache([b])
        assert len(computed) == 2

    def test_rows_come_and_go_without_a_mix_up(self):
        cache, _ = self.make()
        texts = [torch.randn(5, 4) for _ in range(6)]
        generator = torch.Generator().manual_seed(0)
        for _ in range(40):
            picked = [texts[i] for i in torch.randint(6, (3,), generator=generator).tolist()]
            keys, values = cache(picked)[0]
            assert torch.equal(keys, torch.stack(picked).transpose(1, 2) * 2)
            assert torch.equal(values, torch.stack(picked) * 3)

    def test_a_tensor_written_to_is_another_text(self):
        cache, _ = self.make()
        text = torch.randn(5, 4)
        cache([text])
        text[0, 0], text[1, 1] = text[1, 1].clone(), text[0, 0].clone()  # the same sum
        assert torch.equal(cache([text])[0][1], text[None] * 3)

    def test_it_stays_within_its_limit(self):
        cache, _ = self.make(limit=2000)
        for _ in range(20):
            cache([torch.randn(5, 4)])
        assert len(cache) == 2000 // (3 * 5 * 4 * 4)


@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_tiny_decoder_equals_the_plain_one(size: tuple[int, int]):
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16, 16), decoder_block_out_channels=(16, 16, 16, 16)
    ).eval()
    z = torch.randn(2, 4, *size)
    with torch.no_grad():
        wanted = vae.decode(z, return_dict=False)[0]
    torch.testing.assert_close(accelerate_decoder(vae)(z), wanted, rtol=1e-5, atol=1e-5)
    if supported(torch.bfloat16):
        error = (accelerate_decoder(vae, torch.bfloat16)(z) - wanted).pow(2).mean()
        with torch.no_grad():
            plain = (vae.to(torch.bfloat16).decode(z.bfloat16(), return_dict=False)[0] - wanted).pow(2).mean()
        assert float(error) <= float(plain)


def test_kl_decoder_equals_the_plain_one():
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
    ).eval()
    z = torch.randn(2, 4, 8, 10)
    with torch.no_grad():
        wanted = vae.decode(z, return_dict=False)[0]
    torch.testing.assert_close(accelerate_decoder(vae)(z), wanted, rtol=1e-4, atol=1e-5)


def test_other_decoders_run_as_they_are():
    vae = AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4, act_fn="gelu"
    ).eval()
    z = torch.randn(1, 4, 4, 4)
    assert torch.equal(accelerate_decoder(vae)(z), vae.decode(z, return_dict=False)[0])
