"""Attention maps: equal to what the network's own attention does, and the network left as it was."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import nn
from torch.nn import functional

from laur.utils.attention import AttentionMaps, attention_sheet, heat_over, record_attention


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


def run(unet, size=(8, 10), rows=2, length=5, **options):
    torch.manual_seed(1)
    with torch.inference_mode():
        return unet(torch.randn(rows, 4, *size), 500, torch.randn(rows, length, 16), **options).sample


def hooks(module):
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


def test_the_prediction_is_the_same_to_the_last_bit(unet):
    processors = dict(unet.attn_processors)
    before = run(unet)
    with record_attention(unet) as maps:
        during = run(unet)
    assert torch.equal(before, during)
    assert torch.equal(before, run(unet))
    assert unet.attn_processors == processors
    assert hooks(unet) == 0
    assert (maps.rows, maps.positions, maps.resolution) == (2, 5, (8, 10))


def test_hooks_go_when_the_block_fails(unet):
    with pytest.raises(RuntimeError, match="on purpose"), record_attention(unet):
        raise RuntimeError("on purpose")
    assert hooks(unet) == 0


def test_shares_of_all_positions_add_up_to_one(unet):
    with record_attention(unet) as maps:
        run(unet)
        run(unet)
    everything = maps.for_positions(range(5), row=0)
    assert everything.shape == (8, 10)
    assert everything.dtype == np.float32
    np.testing.assert_allclose(everything, 1, atol=1e-5)
    parts = sum(maps.for_positions([i], row=0) for i in range(5))
    np.testing.assert_allclose(parts, everything, atol=1e-5)
    assert not np.allclose(maps.for_positions([1], row=0), maps.for_positions([1], row=1))


def test_sizes_that_do_not_halve_evenly_are_placed(unet):
    with record_attention(unet) as maps:
        run(unet, size=(7, 10))
    assert maps.for_positions([0]).shape == (7, 10)


def test_masked_positions_get_nothing(unet):
    with record_attention(unet) as maps:
        run(unet, encoder_attention_mask=torch.tensor([[True] * 3 + [False] * 2] * 2))
    assert maps.for_positions([3, 4]).max() < 1e-6
    np.testing.assert_allclose(maps.for_positions([0, 1, 2]), 1, atol=1e-5)


def test_probabilities_are_those_of_the_networks_own_attention(unet):
    """Probabilities times values, through the output projection, must be what the layer itself gives."""
    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    torch.manual_seed(2)
    hidden, context = torch.randn(1, 6, 32), torch.randn(1, 5, 16)
    wrapper = nn.Module()
    wrapper.attn2 = layer
    wrapper.forward = lambda sample: layer(hidden, encoder_hidden_states=context)
    with torch.inference_mode(), record_attention(wrapper) as maps:
        wrapper(torch.zeros(1, 4, 2, 3))
        q = layer.to_q(hidden).view(1, 6, layer.heads, -1).transpose(1, 2)
        k = layer.to_k(context).view(1, 5, layer.heads, -1).transpose(1, 2)
        # identity values make scaled dot-product attention return its probabilities
        eye = torch.eye(5).expand(1, layer.heads, 5, 5)
        expected = functional.scaled_dot_product_attention(q, k, eye).mean(1)[0]
    found = np.stack([maps.for_positions([i]).reshape(-1) for i in range(5)], -1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_other_batches_and_foreign_modules_are_refused(unet):
    with record_attention(unet):
        run(unet)
        with pytest.raises(ValueError, match="draw one picture alone"):
            run(unet, rows=1)
    with pytest.raises(ValueError, match="Linear has no cross-attention"), record_attention(nn.Linear(1, 1)):
        pass
    with pytest.raises(ValueError, match="no cross-attention was recorded"):
        AttentionMaps().for_positions([0])


def test_heat_is_strongest_where_the_map_is():
    heat = np.zeros((4, 4), np.float32)
    heat[3, 3] = 1
    over = np.asarray(heat_over(Image.new("RGB", (64, 64), "white"), heat)).astype(int)
    assert over[60, 60, 0] - over[60, 60, 2] > 100
    assert over[4, 4, 2] > over[4, 4, 0]
    assert heat_over(Image.new("RGB", (8, 8)), np.ones((2, 2), np.float32)).size == (8, 8)


def test_a_sheet_holds_the_picture_and_a_map_for_each_word():
    image = Image.new("RGB", (64, 64), "white")
    heat = np.eye(4, dtype=np.float32)
    one, two = (attention_sheet(image, [("fox", heat)] * count, columns=2) for count in (1, 2))
    assert one.width == two.width == 8 + 2 * 72
    assert two.height > one.height
