"""How far adapters move weights: from their factors, the same as from whole matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laur.optimize.deltas import Delta, Dense, DoRA, LowRank, Scale
from laur.optimize.strength import strength

SHAPES = {"unet.a": (6, 5), "unet.b": (4, 3, 3, 3), "unet.c": (7, 7)}


def base(name: str) -> torch.Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(len(name) + ord(name[-1])))


def low(name: str, rank: int, seed: int) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    out, *inner = SHAPES[name]
    up = torch.randn(out, rank, *(1 for _ in inner[1:]), generator=draw)
    return LowRank(up, torch.randn(rank, *inner, generator=draw), scale=0.5)


def measured(terms: list[tuple[dict[str, Delta], float]], layers: int = 3):
    return strength(terms, base, lambda name: float(base(name).norm()), layers=layers)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.floats(-2, 2), st.sets(st.sampled_from(list(SHAPES)))), max_size=4))
def test_it_is_the_norm_of_the_whole_sum(mix: list[tuple[int, float, set[str]]]) -> None:
    terms: list[tuple[dict[str, Delta], float]] = [
        ({name: low(name, rank, seed) for name in sorted(names)}, weight)
        for seed, (rank, weight, names) in enumerate(mix)
    ]
    found = measured(terms)
    for name, shape in SHAPES.items():
        total = torch.zeros(shape)
        for deltas, weight in terms:
            if name in deltas:
                deltas[name].add_to(total, base(name), weight)
        assert found.by_layer.get(name, 0.0) == pytest.approx(
            float(total.norm() / base(name).norm()), rel=1e-3, abs=1e-4
        )
    squares = sum(value**2 for value in found.by_layer.values())
    assert found.overall == pytest.approx(math.sqrt(squares / 3))


def test_what_is_taken_away_again_moves_nothing() -> None:
    one: dict[str, Delta] = {"unet.a": low("unet.a", 2, 1)}
    assert measured([(one, 1.0), (one, -1.0)]).overall < 1e-3
    assert measured([(one, 2.0)]).overall == pytest.approx(2 * measured([(one, 1.0)]).overall)
    assert measured([]).overall == 0.0
    assert measured([]).most() == []


def test_other_kinds_are_measured_against_the_base_weight() -> None:
    half = {"unet.a": Scale(torch.full((6,), 1.5))}
    assert measured([(half, 1.0)]).by_layer["unet.a"] == pytest.approx(0.5)
    dense = {"unet.c": Dense(base("unet.c") * 0.3), "unet.c.bias": Dense(torch.ones(7))}
    found = measured([(half, 1.0), (dense, -1.0)])
    assert found.by_layer == pytest.approx({"unet.a": 0.5, "unet.c": 0.3})
    assert found.most() == [("unet.a", found.by_layer["unet.a"])]
    norm = torch.linalg.vector_norm(base("unet.a"), dim=1)
    dora = {"unet.a": DoRA(LowRank(torch.zeros(6, 1), torch.zeros(1, 5)), 2 * norm)}
    assert measured([(dora, 1.0)]).by_layer["unet.a"] == pytest.approx(1.0)
