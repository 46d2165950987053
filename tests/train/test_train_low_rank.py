"""Low-rank layers: beside the layer or in its weight, the same function and the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from laur.train.objectives.lora import Lora, LowRankLayer


class Two(nn.Module):
    """A convolution with stride and a linear, each large enough for its factors to be thin."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(24, 32, 3, stride=2, padding=1, padding_mode="circular")
        self.proj_out = nn.Linear(32, 40)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.conv1(x).flatten(2).transpose(1, 2))


def _network(rank: int) -> tuple[nn.ModuleDict, Lora]:
    torch.manual_seed(3)
    network = nn.ModuleDict({"block": Two()})
    lora = Lora(network, rank=rank, alpha=1.5 * rank, targets=("conv", "projection"))
    for factor in lora.parameters:
        nn.init.normal_(factor, std=0.3)
    return network, lora


def _run(network: nn.ModuleDict, lora: Lora, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    out = network["block"](x)
    return out.detach(), list(torch.autograd.grad(out.square().sum(), [x, *lora.parameters]))


def test_both_forms_are_the_same_function_with_the_same_gradients() -> None:
    network, lora = _network(2)
    network.double()
    assert all(layer.thin for layer in lora.layers.values())
    x = torch.randn(3, 24, 9, 7, dtype=torch.float64, requires_grad=True)
    beside, slopes = _run(network, lora, x)
    for layer in lora.layers.values():
        layer.thin = False
    # the product in the weight is taken outside of autocast, in the factors' own precision
    merged, wanted = _run(network, lora, x)
    assert torch.allclose(beside, merged, rtol=1e-12, atol=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(slopes, wanted, strict=True))
    assert not torch.allclose(beside, _without(network, lora, x))


def _without(network: nn.ModuleDict, lora: Lora, x: Tensor) -> Tensor:
    with lora.switch.to("off"):
        return network["block"](x).detach()


@pytest.mark.parametrize(("rank", "thin"), [(4, True), (5, True), (6, False), (32, False)])
def test_factors_go_beside_a_layer_while_they_cost_less_than_its_weights_gradient(rank: int, thin: bool) -> None:
    _, lora = _network(rank)  # 3 r (32 + 40) < 32 · 40 for r <= 5
    assert lora.layers["block.proj_out"].thin is thin


def test_without_gradients_the_weight_takes_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = _network(2)
    asked: list[LowRankLayer] = []
    merged = LowRankLayer.merged
    monkeypatch.setattr(LowRankLayer, "merged", lambda layer: asked.append(layer) or merged(layer))
    x = torch.randn(1, 24, 8, 8)
    with torch.no_grad():
        quick = network["block"](x)
    assert len(asked) == 2
    assert torch.allclose(network["block"](x), quick, atol=1e-4)
    assert len(asked) == 2
