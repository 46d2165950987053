"""One pass over rows with different adapters equals running each row alone with its adapters merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from laur.core.pytorch.cpu import accelerate, supported
from laur.core.pytorch.cpu.interface import Network, PlainUNet
from laur.core.pytorch.rows import choice
from laur.core.pytorch.rows.batch import RowBatch, RowBatches, order
from laur.core.pytorch.rows.factors import Factors, Fused, RowSet, bucket, joined
from laur.core.pytorch.rows.product import add_conv, add_linear, add_pixels

LAYOUTS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (32, 56),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
    },
    "sdxl": {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 20 + 6 * 8,
    },
}
ROWS = 6


def unet(layout: str) -> UNet2DConditionModel:
    torch.manual_seed(0)
    sizes = {"sample_size": 16, "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 24}
    return UNet2DConditionModel(**(sizes | LAYOUTS[layout])).eval().requires_grad_(False)


def inputs(layout: str) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    values: dict[str, Any] = {
        "sample": torch.randn(ROWS, 4, 16, 16, generator=draw),
        "timesteps": torch.tensor([999.0, 259.0, 499.5, 3.0, 3.0, 999.0]),
        "context": torch.randn(ROWS, 7, 24, generator=draw),
    }
    if layout == "sdxl":
        text, ids = torch.randn(ROWS, 20, generator=draw), torch.randn(ROWS, 6, generator=draw).abs() * 500
        values["added_cond"] = {"text_embeds": text, "time_ids": ids}
    return values


def row(values: dict[str, Any], i: int) -> dict[str, Any]:
    return {
        key: {name: part[i : i + 1] for name, part in value.items()} if isinstance(value, dict) else value[i : i + 1]
        for key, value in values.items()
    }


def random_set(model: nn.Module, names: frozenset[str], rank: int, seed: int, weight: float = 1.0) -> RowSet:
    draw = torch.Generator().manual_seed(seed)
    layers: dict[str, Factors] = {}
    for number, name in enumerate(sorted(names)):
        shape = model.get_submodule(name).weight.shape  # type: ignore[union-attr]
        r = rank + number % 3
        down = torch.randn(r, *shape[1:], generator=draw) * 0.1
        down = down.flatten(1) if shape[2:] in {(), (1, 1)} else down
        layers[name] = Factors(torch.randn(shape[0], r, generator=draw) * 0.1 * weight, down)
    return RowSet(layers)


def merged(model: nn.Module, rows: RowSet | None) -> dict[str, Tensor]:
    if rows is None:
        return {}
    base = dict(model.named_parameters())
    return {
        f"{name}.weight": base[f"{name}.weight"] + (part.up @ part.down.flatten(1)).view(base[f"{name}.weight"].shape)
        for name, part in rows.layers.items()
    }


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def sets_for(model: nn.Module, names: frozenset[str]) -> list[RowSet | None]:
    """Two CFG rows of one set, one of several adapters with a negative weight, one without, one on few layers."""
    one, two = (random_set(model, names, rank, rank) for rank in (3, 9))
    minus = random_set(model, names, 5, 7, weight=-0.7)
    several = RowSet({name: joined([two.layers[name], minus.layers[name]]) for name in names})
    few = RowSet({name: part for name, part in minus.layers.items() if "attn" in name})
    return [one, one, several, None, few, two]


@pytest.fixture(params=["fast", "plain"])
def network_of(request: pytest.FixtureRequest) -> Any:
    if request.param == "fast" and not supported(torch.float32):
        pytest.skip("this PyTorch has no fused oneDNN operators")
    return accelerate if request.param == "fast" else PlainUNet


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_pass_equals_each_row_alone_with_merged_weights(
    layout: str, always: bool, network_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("packed", "linear"):
        monkeypatch.setattr(f"laur.core.pytorch.cpu.{module}.merges", lambda *_: always)
    model, values = unet(layout), inputs(layout)
    network: Network = network_of(model)
    sets = sets_for(model, network.per_row)
    together = network(**values, adapters=sets)
    for i, rows in enumerate(sets):
        alone: Network = network_of(model)
        alone.load(merged(model, rows))
        assert relative(together[i : i + 1], alone(**row(values, i))) <= 1e-5
    plain = network(**values)
    assert relative(plain[3:4], together[3:4]) <= 1e-5
    assert relative(plain[0:1], together[0:1]) > 1e-3  # the adapters do something


def test_rows_come_back_in_their_own_order() -> None:
    from laur.core.denoiser import Row
    from laur.core.pytorch.denoiser import TorchDenoiser

    model, values = unet("sd1"), inputs("sd1")
    network = accelerate(model)
    one, two = (random_set(model, network.per_row, 4, seed) for seed in (1, 2))
    denoiser = TorchDenoiser(network, device=torch.device("cpu"), dtype=torch.float32)
    sets = [one, two, None, one, two, one]
    rows = [
        Row(
            latent=values["sample"][i], timestep=float(values["timesteps"][i]), context=values["context"][i], adapters=s
        )
        for i, s in enumerate(sets)
    ]
    together = denoiser.predict(rows)
    for i, one_row in enumerate(rows):
        assert relative(together[i : i + 1], denoiser.predict([one_row])) <= 1e-5


def test_keys_and_values_are_projected_once_for_a_text_and_its_adapters(
    network_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, values = unet("sd1"), inputs("sd1")
    network = network_of(model)
    cache = network._contexts if hasattr(network, "_contexts") else network._texts.cache
    seen: list[RowSet | None] = []
    real = cache._project
    monkeypatch.setattr(cache, "_project", lambda context, rows: (seen.append(rows), real(context, rows))[1])
    sets = sets_for(model, network.per_row)
    for _ in range(3):
        network(**values, adapters=sets)
    assert seen == sets
    network(**values)
    assert len(seen) == ROWS + 5  # without adapters they are others, except the row that had none


@pytest.mark.parametrize("ranks", [(1, 4, 5), (8, 8, 8), (3, 40, 130)])
def test_linear_product(ranks: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    sets: list[RowSet | None] = [
        RowSet({"a": Factors(torch.randn(12, r, generator=draw), torch.randn(r, 20, generator=draw))}) for r in ranks
    ]
    rows = [sets[0], sets[0], None, sets[1], sets[2]]
    x, y = torch.randn(5, 7, 20, generator=draw), torch.randn(5, 7, 12, generator=draw)
    wanted = y.clone()
    for i, own in enumerate(rows):
        if own is not None:
            wanted[i] += x[i] @ own.layers["a"].down.t() @ own.layers["a"].up.t()
    got = add_linear(y.clone(), x, RowBatch(rows).groups(Fused.single("a", 12)))
    assert relative(got, wanted) <= 1e-6


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 1, 2)])
def test_convolution_product(kernel: int, stride: int, padding: int) -> None:
    draw = torch.Generator().manual_seed(0)

    def made(rank: int) -> RowSet:
        down = torch.randn(rank, 6, kernel, kernel, generator=draw)
        return RowSet({"c": Factors(torch.randn(8, rank, generator=draw), down)})

    rows = [made(2), None, made(6)]
    x = torch.randn(3, 6, 10, 12, generator=draw)
    base = torch.randn(8, 6, kernel, kernel, generator=draw)
    y = nn.functional.conv2d(x, base, None, stride, padding)
    sides = {"stride": (stride, stride), "padding": (padding, padding), "dilation": (1, 1)}
    got = add_conv(y.clone(), x, RowBatch(rows), "c", **sides)
    for i, own in enumerate(rows):
        weight = base if own is None else base + (own.layers["c"].up @ own.layers["c"].down.flatten(1)).view(base.shape)
        assert relative(got[i : i + 1], nn.functional.conv2d(x[i : i + 1], weight, None, stride, padding)) <= 1e-5


def test_pixel_product_is_a_1x1_convolution() -> None:
    draw = torch.Generator().manual_seed(0)
    own = RowSet({"c": Factors(torch.randn(8, 3, generator=draw), torch.randn(3, 6, generator=draw))})
    x = torch.randn(2, 6, 5, 4, generator=draw)
    got = add_pixels(torch.zeros(2, 8, 5, 4), x, RowBatch([None, own]), Fused.single("c", 8))
    weight = (own.layers["c"].up @ own.layers["c"].down)[:, :, None, None]
    assert relative(got[1], nn.functional.conv2d(x[1:], weight)[0]) <= 1e-6
    assert not got[0].any()


def test_ranks_are_padded_to_buckets_and_equal_buckets_share_a_product() -> None:
    assert [bucket(rank) for rank in (1, 4, 5, 16, 17, 3000)] == [4, 4, 8, 16, 32, 3000]
    sets = [RowSet({"a": Factors(torch.ones(2, r), torch.ones(r, 3))}) for r in (5, 7, 9)]
    groups = RowBatch(sets).groups(Fused.single("a", 2))
    assert [(group.start, group.stop, group.down.shape[2]) for group in groups] == [(0, 2, 8), (2, 3, 16)]


def test_rows_that_share_a_set_lie_together_and_read_it_once() -> None:
    a, b = (RowSet({"a": Factors(torch.ones(2, 4), torch.ones(4, 3))}) for _ in range(2))
    places = order([a, None, b, a, None, b])
    assert places == [0, 3, 1, 4, 2, 5]
    (group,) = RowBatch([a] * 6).groups(Fused.single("a", 2))
    assert group.down.shape[0] == 1


def test_stacks_are_gathered_once_while_the_composition_stays() -> None:
    batches = RowBatches()
    a, b, c = (RowSet({"a": Factors(torch.ones(2, 4), torch.ones(4, 3))}) for _ in range(3))
    first = batches.of([a, b])
    assert batches.of([a, b]) is first
    assert batches.of([b, a]) is not first
    batches.of([c])
    assert batches.of([a, b]) is not first  # two are kept


def test_the_choice_is_the_layers_own() -> None:
    assert choice.merges(128, 128 * 9, 32 * 32)  # a large map of few channels
    assert not choice.merges(320, 320 * 9, 8 * 8)  # a small map of many
    assert not choice.merges(320, 384, 77)
