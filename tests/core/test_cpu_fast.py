"""The fast CPU network equals the plain one, row by row, before and after its weights change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from laur.core.errors import MismatchError
from laur.core.pytorch.cpu import accelerate, supported
from laur.core.pytorch.cpu.interface import PlainUNet
from laur.core.pytorch.cpu.unet import FastUNet

pytestmark = pytest.mark.skipif(not supported(torch.float32), reason="this PyTorch has no fused oneDNN operators")

SMALL: dict[str, Any] = {"sample_size": 16, "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 24}
LAYOUTS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (32, 56),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "time_cond_proj_dim": 6,
    },
    "sd2": {
        "block_out_channels": (32, 48, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": (2, 3, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 20 + 6 * 8,
    },
}


def unet(layout: str, **changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    model = UNet2DConditionModel(**(SMALL | LAYOUTS[layout] | changes)).eval()
    for parameter in model.parameters():  # biases and norms start at 0 and 1: make each of them matter
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    return model


def inputs(layout: str, rows: int = 3, size: tuple[int, int] = (16, 16), length: int = 7) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    values: dict[str, Any] = {
        "sample": draw(rows, 4, *size),
        "timesteps": torch.tensor([999.0, 259.0, 499.5, 3.0])[:rows],
        "context": draw(rows, length, 24),
    }
    if layout == "sd1":
        values["timestep_cond"] = draw(rows, 6)
    if layout == "sdxl":
        values["added_cond"] = {"text_embeds": draw(rows, 20), "time_ids": draw(rows, 6).abs() * 500}
    return values


def row(values: dict[str, Any], i: int) -> dict[str, Any]:
    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(inner) for key, inner in value.items()}
        return [cut(v) for v in value] if isinstance(value, list) else value[i : i + 1]

    return {key: cut(value) for key, value in values.items()}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("size", [(16, 16), (32, 40), (10, 6)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_plain_network(layout: str, size: tuple[int, int]):
    model = unet(layout)
    fast, plain, values = accelerate(model), PlainUNet(model), inputs(layout, size=size)
    assert isinstance(fast, FastUNet)
    assert relative(fast(**values), plain(**values)) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mask_and_residuals(layout: str):
    model, values = unet(layout), inputs(layout)
    fast, plain = accelerate(model), PlainUNet(model)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 4:] = mask[2, 1:] = False
    probe: list[Tensor] = []
    hook = model.mid_block.register_forward_hook(lambda *args: probe.append(args[2]))
    plain_again = PlainUNet(model)
    plain_again(**values)
    hook.remove()
    skips = _skip_shapes(model, values)
    residuals = [torch.randn(shape) for shape in [*skips, probe[0].shape]]
    values |= {"context_mask": mask, "residuals": residuals}
    wanted = plain(**values)
    assert relative(fast(**values), wanted) < 1e-5
    del values["context_mask"]
    assert relative(fast(**values), wanted) > 1e-4


def _skip_shapes(model: UNet2DConditionModel, values: dict[str, Any]) -> list[torch.Size]:
    shapes: list[torch.Size] = []
    hooks = [model.conv_in.register_forward_hook(lambda *args: shapes.append(args[2].shape))]
    for block in model.down_blocks:
        hooks.append(block.register_forward_hook(lambda *args: shapes.extend(x.shape for x in args[2][1])))
    PlainUNet(model)(**values)
    for hook in hooks:
        hook.remove()
    return shapes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "decibels"), [(torch.float32, 110.0), (torch.bfloat16, 60.0)])
def test_a_row_does_not_depend_on_its_batch(layout: str, dtype: torch.dtype, decibels: float):
    if not supported(dtype):
        pytest.skip("no bfloat16 here")
    fast, values = accelerate(unet(layout), dtype), inputs(layout, size=(32, 32))
    together = fast(**values)
    for i in range(3):
        alone = fast(**row(values, i))
        noise = (alone - together[i : i + 1]).pow(2).mean()
        psnr = 10 * torch.log10(together.max().sub(together.min()).pow(2) / noise.clamp_min(1e-20))
        assert float(psnr) > decibels


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_is_no_worse_than_plain_bfloat16(layout: str):
    if not supported(torch.bfloat16):
        pytest.skip("no bfloat16 here")
    model, values = unet(layout), inputs(layout)
    wanted = PlainUNet(model)(**values)
    fast = relative(accelerate(model, torch.bfloat16)(**values), wanted)
    plain = relative(PlainUNet(model.to(torch.bfloat16))(**values), wanted)
    assert 0 < fast < 1.15 * plain


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_change_and_come_back_bit_for_bit(layout: str, dtype: torch.dtype):
    if not supported(dtype):
        pytest.skip("no bfloat16 here")
    model, values = unet(layout), inputs(layout)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = accelerate(model, dtype)
    before = fast(**values)
    merged = {name: p + 0.05 * torch.randn_like(p) for name, p in model.named_parameters() if p.ndim > 1}
    fast.load(merged)
    changed = unet(layout)
    changed.load_state_dict(kept | merged)
    assert torch.equal(fast(**values), accelerate(changed, dtype)(**values))
    fast.load({})
    assert torch.equal(fast(**values), before)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


def test_every_parameter_reaches_the_result():
    """A layer that kept an old packing would show here."""
    model, values = unet("sdxl"), inputs("sdxl", rows=1)
    fast = accelerate(model)
    before = fast(**values)
    for name, parameter in model.named_parameters():
        fast.load({name: parameter + 0.5 * torch.randn_like(parameter)})
        # a key's bias would change nothing, for it adds the same to all scores; these layouts have none
        assert not torch.equal(fast(**values), before), name


def test_wrong_names_and_shapes_are_refused():
    fast = accelerate(unet("sd1"))
    for bad in ({"conv_in.weigth": torch.zeros(1)}, {"conv_in.weight": torch.zeros(1)}):
        with pytest.raises(MismatchError, match="conv_in"):
            fast.load(bad)


def test_a_layer_of_unknown_kind_runs_as_it_is():
    model = unet("sd2")

    class Doubled(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    odd = model.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    odd.to_q.__class__ = Doubled
    model.mid_block.resnets[0].output_scale_factor = 1.5
    fast, values = accelerate(model), inputs("sd2")
    assert isinstance(fast, FastUNet)
    assert relative(fast(**values), PlainUNet(model)(**values)) < 1e-5
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    before = fast(**values)
    fast.load({name: model.get_parameter(name) * 3})
    assert not torch.equal(fast(**values), before)
    fast.load({})
    assert torch.equal(fast(**values), before)


def test_a_network_of_unknown_kind_is_the_plain_module():
    assert isinstance(accelerate(unet("sd1", class_embed_type="identity")), PlainUNet)
    assert isinstance(accelerate(unet("sd1").half()), PlainUNet)
