from __future__ import annotations

import pytest
import torch
from lora_kit import SD1, factors, in_diffusers, tiny_unet, write

from laur.core.errors import MismatchError
from laur.optimize.deltas import Dense, Kronecker, LowRank, Scale
from laur.optimize.layers import LayerShape
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes, merged_state

LINEAR, CONV = LayerShape((6, 8)), LayerShape((6, 8, 3, 3))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


KINDS = {
    "low rank": (LINEAR, lambda: LowRank(draw(6, 2), draw(2, 8, seed=1), 0.5)),
    "low rank, convolution": (CONV, lambda: LowRank(draw(6, 2, 1, 1), draw(2, 8, 3, 3, seed=1), 0.5)),
    "low rank, middle": (CONV, lambda: LowRank(draw(6, 2, 1, 1), draw(2, 8, 1, 1, seed=1), 0.5, draw(2, 2, 3, 3))),
    "low rank on 1x1": (LayerShape((6, 8, 1, 1)), lambda: LowRank(draw(6, 2), draw(2, 8, seed=1))),
    "scale of outputs": (CONV, lambda: Scale(draw(6))),
    "scale of inputs": (LINEAR, lambda: Scale(draw(8), axis=1)),
    "dense": (CONV, lambda: Dense(draw(6, 8, 3, 3), 2.0)),
    "Kronecker": (LINEAR, lambda: Kronecker(draw(2, 4), draw(3, 2, seed=1), 0.5)),
    "Kronecker, convolution": (CONV, lambda: Kronecker(draw(2, 4), draw(3, 2, 3, 3, seed=1), 0.5)),
}


def difference(delta, base: torch.Tensor) -> torch.Tensor:
    """Written out element by element or in other words than the code's."""
    match delta:
        case LowRank(mid=None):
            return delta.scale * torch.einsum("or,rk->ok", delta.up.flatten(1), delta.down.flatten(1)).view(base.shape)
        case LowRank():
            return delta.scale * torch.einsum("oi,ijkl,jn->onkl", delta.up.flatten(1), delta.mid, delta.down.flatten(1))
        case Scale(axis=0):
            return torch.stack([row * (factor - 1) for row, factor in zip(base, delta.factor, strict=True)])
        case Scale():
            return base @ torch.diag(delta.factor) - base
        case Dense():
            return delta.difference * delta.scale
        case Kronecker():
            (a, b), (c, d, *_) = delta.left.shape, delta.right.shape
            out = torch.zeros_like(base)
            for i in range(a):
                for j in range(b):
                    out[i * c : (i + 1) * c, j * d : (j + 1) * d] = delta.left[i, j] * delta.right
            return out * delta.scale
    raise AssertionError(delta)


@pytest.mark.parametrize("kind", KINDS)
def test_a_delta_adds_its_difference(kind):
    layer, make = KINDS[kind]
    delta, base = make(), draw(*layer.weight, seed=3)
    before = base.clone()
    delta.check("layer", layer)
    for weight in (1.0, -0.3):
        torch.testing.assert_close(delta.apply(base, weight), base + weight * difference(delta, base))
    assert torch.equal(base, before)
    assert delta.nbytes > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_delta_for_another_shape_is_refused(kind):
    delta = KINDS[kind][1]()
    with pytest.raises(MismatchError, match=r"unet\.x is 9x9 in this checkpoint, but the adapter was made for"):
        delta.check("unet.x", LayerShape((9, 9)))


def test_low_rank_factors_must_agree():
    with pytest.raises(MismatchError, match="ranks disagree"):
        LowRank(draw(6, 2), draw(3, 8))
    with pytest.raises(MismatchError, match="ranks disagree"):
        LowRank(draw(6, 2, 1, 1), draw(2, 8, 1, 1), mid=draw(3, 3, 3, 3))


@pytest.fixture
def unet():
    return tiny_unet(SD1)


def parameters(unet) -> dict[str, torch.Tensor]:
    return {f"unet.{name}": value for name, value in unet.state_dict().items()}


def test_many_adapters_add_up_from_the_base(unet, tmp_path):
    layers = layer_shapes(unet, "unet")
    one = LoraFile(write(tmp_path / "1.safetensors", in_diffusers(factors(unet, "unet", only="attn1")))).deltas(layers)
    two = LoraFile(write(tmp_path / "2.safetensors", in_diffusers(factors(unet, "unet", only="to_", rank=2)))).deltas(
        layers
    )
    base = parameters(unet)
    before = {name: value.clone() for name, value in base.items()}
    merged = merged_state(base, [(one, 0.7), (two, -1.5)], torch.float32)
    assert set(merged) == {f"{name}.weight" for name in {*one, *two}}
    for name, value in merged.items():
        layer = name.removesuffix(".weight")
        expected = base[name].double()
        for deltas, weight in ((one, 0.7), (two, -1.5)):
            if layer in deltas:
                up, down = (f.double() for f in deltas[layer].factors())
                expected = expected + weight * deltas[layer].scale * (up @ down).view(expected.shape)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(base[name], before[name]) for name in base), "the base never changes"


def test_low_precision_is_rounded_once(unet, tmp_path):
    """Merged in float32, whatever the base is kept in and the network runs in; the memory format is the base's."""
    layers = layer_shapes(unet, "unet")
    deltas = LoraFile(write(tmp_path / "1.safetensors", in_diffusers(factors(unet, "unet")))).deltas(layers)
    half = {name: value.half() for name, value in parameters(unet).items()}
    strided = {n: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for n, v in half.items()}
    exact = merged_state({name: value.float() for name, value in half.items()}, [(deltas, 1.0)], torch.float32)
    for base in (half, strided):
        merged = merged_state(base, [(deltas, 1.0)], torch.bfloat16)
        for name, value in merged.items():
            assert torch.equal(value, exact[name].bfloat16())
            assert value.stride() == base[name].stride()


def test_nothing_to_do_touches_nothing(unet, tmp_path):
    layers = layer_shapes(unet, "unet")
    deltas = LoraFile(write(tmp_path / "1.safetensors", in_diffusers(factors(unet, "unet")))).deltas(layers)
    assert merged_state(parameters(unet), [(deltas, 0.0)], torch.float32) == {}
    assert merged_state(parameters(unet), [], torch.float32) == {}


def test_merging_checks_shapes(unet):
    with pytest.raises(MismatchError, match=r"unet\.conv_in is 32x4x3x3"):
        merged_state(parameters(unet), [({"unet.conv_in": Dense(draw(3, 3))}, 1.0)], torch.float32)


def test_layer_shapes_work_without_weights():
    with torch.device("meta"):
        unet = tiny_unet(SD1)
    shapes = layer_shapes(unet, "unet")
    assert shapes["unet.conv_in"] == LayerShape((32, 4, 3, 3))
    assert shapes["unet.conv_in"].flat == (32, 36)
    assert not any("norm" in name for name in shapes)
