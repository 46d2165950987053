"""What sums, multiples, ranks and differences must be, whatever the numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_kit import SD1, factors, in_kohya, tiny_unet, write

from laur.core.errors import AdapterError, MismatchError
from laur.optimize import blocks
from laur.optimize.algebra import by_block, extract, matrix, phases, rerank, scaled, total
from laur.optimize.deltas import Delta, Dense, DoRA, Kronecker, LowRank, Scale
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes, merged_state
from laur.optimize.merged import Merged

OUT, IN = 6, 4
WEIGHTS = st.floats(-2, 2, allow_nan=False).map(lambda w: round(w, 3))


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(kind: str, conv: bool, rank: int, seed: int, scale: float = 0.5) -> Delta:
    kernel = (3, 3) if conv else ()
    ones = (1,) * len(kernel)
    match kind:
        case "low":
            return LowRank(draw(OUT, rank, *ones, seed=seed), draw(rank, IN, *kernel, seed=seed + 1), scale)
        case "mid" if conv:
            down = draw(rank, IN, 1, 1, seed=seed + 1)
            return LowRank(draw(OUT, rank, 1, 1, seed=seed), down, scale, draw(rank, rank, 3, 3, seed=seed + 2))
        case "kron":
            return Kronecker(draw(3, 2, seed=seed), draw(2, 2, *kernel, seed=seed + 1), scale)
        case _:
            return Dense(draw(OUT, IN, *kernel, seed=seed), scale)


@st.composite
def terms(draws):
    """Up to four adapters of any kinds and ranks over the same two layers, with weights."""
    found = []
    for number in range(draws(st.integers(1, 4))):
        deltas = {}
        for layer, conv in (("unet.a", False), ("unet.b", True)):
            if draws(st.booleans()) or not deltas:
                kind = draws(st.sampled_from(["low", "mid", "kron", "dense"]))
                deltas[layer] = make(kind, conv, draws(st.integers(1, 5)), 10 * number + conv)
        found.append((deltas, draws(WEIGHTS)))
    return found


BASE = {"unet.a.weight": draw(OUT, IN, seed=77), "unet.b.weight": draw(OUT, IN, 3, 3, seed=78)}


@settings(max_examples=60, deadline=None)
@given(terms())
def test_a_sum_changes_weights_as_its_terms_do(found):
    one = merged_state(BASE, [(total(found), 1.0)], torch.float32)
    many = merged_state(BASE, found, torch.float32)
    assert one.keys() == many.keys()
    for name, value in many.items():
        torch.testing.assert_close(one[name], value, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(terms())
def test_a_sum_less_itself_is_nothing(found):
    for name, delta in total([*found, *((deltas, -weight) for deltas, weight in found)]).items():
        assert float(matrix(name, delta).abs().max()) <= 1e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), WEIGHTS, st.booleans())
def test_ranks_add_up(r1, r2, weight, conv):
    one, two = make("low", conv, r1, 1), make("low", conv, r2, 5)
    summed = total([({"x": one}, 1.0), ({"x": two}, weight)])["x"]
    assert isinstance(summed, LowRank) and summed.rank == r1 + (r2 if weight else 0)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["low", "mid", "kron", "dense"]), WEIGHTS, WEIGHTS)
def test_a_multiple_keeps_every_factor(kind, weight, again):
    delta = make(kind, True, 2, 3)
    twice = scaled(scaled({"x": delta}, weight), again)["x"]
    assert twice.scale == delta.scale * weight * again
    for field in ("up", "down", "mid", "left", "right", "difference"):
        assert getattr(twice, field, None) is getattr(delta, field, None)


def test_one_term_keeps_its_factors_and_a_weight_of_0_says_nothing():
    low = make("low", False, 2, 1)
    alone = total([({"x": low}, 0.7), ({"x": make("low", False, 3, 2)}, 0.0)])["x"]
    assert isinstance(alone, LowRank) and alone.up is low.up and alone.scale == 0.5 * 0.7
    assert total([({"x": low}, 0.0)]) == {}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.booleans(), st.sampled_from(["low", "kron", "dense"]))
def test_reranking_states_its_error(rank, conv, kind):
    whole = {"x": make(kind, conv, 5, 1), "x.bias": Dense(draw(OUT, seed=4))}
    less, loss = rerank(whole, rank=rank)
    before, after = matrix("x", whole["x"]), matrix("x", less["x"])
    missing = float((before - after).norm() / before.norm())
    assert loss.error == pytest.approx(missing, abs=1e-5) and loss.of("x") == pytest.approx(missing, abs=1e-5)
    # Eckart and Young: nothing of that rank is nearer
    best = torch.linalg.svdvals(before.flatten(1))[rank:].norm() / before.norm()
    assert missing == pytest.approx(float(best), abs=1e-5)
    assert isinstance(less["x"], LowRank) and less["x"].rank <= rank
    assert less["x.bias"] is whole["x.bias"]


def test_reranking_by_random_projection_states_the_error_of_the_whole():
    """A flat spectrum: nearly all is beyond the singular values that the projection gives."""
    flat = torch.linalg.qr(draw(800, 800, seed=6))[0]
    for delta in (Dense(flat, 3.0), Kronecker(torch.eye(2), flat[:400, :400], 0.5)):
        less, loss = rerank({"x": delta}, rank=4)
        whole = matrix("x", delta)
        missing = float((whole - matrix("x", less["x"])).norm() / whole.norm())
        assert missing > 0.95
        assert loss.error == pytest.approx(missing, rel=1e-4) and loss.of("x") == pytest.approx(missing, rel=1e-4)
        assert loss.there["x"] == pytest.approx(float(whole.norm()), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.9), st.integers(1, 5))
def test_the_least_rank_within_an_error(error, rank):
    whole = {"x": make("dense", False, rank, rank)}
    less, loss = rerank(whole, error=error)
    values = torch.linalg.svdvals(matrix("x", whole["x"]))
    assert loss.error <= error + 1e-6
    kept = less["x"].rank
    assert kept == 1 or float(values[kept - 1 :].norm() / values.norm()) > error


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.booleans())
def test_what_was_merged_is_extracted_again(rank, conv):
    deltas = {"unet.b" if conv else "unet.a": make("low", conv, rank, 2)}
    tuned = {**BASE, **merged_state(BASE, [(deltas, 1.0)], torch.float32)}
    found, loss = extract(tuned, BASE, rank=rank)
    assert found.keys() == deltas.keys() and loss.error < 1e-5
    name = next(iter(deltas))
    torch.testing.assert_close(matrix(name, found[name]), matrix(name, deltas[name]), rtol=1e-3, atol=1e-4)


def test_extraction_states_what_it_lost_and_is_the_same_each_time():
    base = {"unet.a.weight": draw(1600, 800, seed=1), "unet.a.bias": torch.zeros(4)}
    tuned = {"unet.a.weight": base["unet.a.weight"] + draw(1600, 800, seed=2), "unet.a.bias": torch.ones(4)}
    state = torch.get_rng_state()
    found, loss = extract(tuned, base, rank=4)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are its own"
    again, _ = extract(tuned, base, rank=4, biases=True)
    assert torch.equal(found["unet.a"].up, again["unet.a"].up)
    assert set(found) == {"unet.a"} and torch.equal(again["unet.a.bias"].difference, torch.ones(4))
    difference = tuned["unet.a.weight"] - base["unet.a.weight"]
    missing = (difference - matrix("unet.a", found["unet.a"])).norm() / difference.norm()
    assert loss.error == pytest.approx(float(missing), rel=1e-4)
    best = float(torch.linalg.svdvals(difference)[4:].norm() / difference.norm())
    assert best <= loss.error <= best * 1.001


def test_what_cannot_be_added_is_refused():
    low = make("low", False, 2, 1)
    for odd in (DoRA(low, torch.ones(OUT)), Scale(torch.ones(OUT))):
        with pytest.raises(AdapterError, match="depends on the base weight"):
            total([({"x": odd}, 0.5)])
    with pytest.raises(MismatchError, match="different shapes at x"):
        total([({"x": low}, 1.0), ({"x": Dense(torch.ones(2, 2))}, 1.0)])
    with pytest.raises(MismatchError, match=r"only one has unet\.a"):
        extract({"unet.a.weight": torch.ones(2)}, {"unet.b.weight": torch.ones(2)}, rank=1)
    with pytest.raises(MismatchError, match="is 3x2 in one checkpoint and 2x3 in the other"):
        extract({"unet.a.weight": torch.ones(3, 2)}, {"unet.a.weight": torch.ones(2, 3)}, rank=1)
    for aim in ({}, {"rank": 1, "error": 0.1}, {"rank": 0}, {"error": 1.0}):
        with pytest.raises(AdapterError):
            rerank({"x": low}, **aim)


def test_weights_by_block():
    low = make("low", False, 2, 1)
    dora = DoRA(low, torch.ones(OUT))
    deltas = {
        "unet.down_blocks.1.a": low,
        "unet.down_blocks.10.a": low,
        "unet.mid_block.x": dora,
        "text_encoder.y": low,
    }
    found = by_block(deltas, {"unet": 0.5, "unet.down_blocks.1": 2.0, "text_encoder": 0.0}, weight=0.8)
    by_layer = {name: weight for group, weight in found for name in group}
    assert by_layer == {
        "unet.down_blocks.1.a": 1.6,
        "unet.down_blocks.10.a": 0.4,
        "unet.mid_block.x": 0.4,
        "text_encoder.y": 0.0,
    }
    assert any(group.get("unet.mid_block.x") is dora for group, _ in found)
    with pytest.raises(AdapterError, match=r"no layer of the adapter is in 'unet\.up'"):
        by_block(deltas, {"unet.up": 1.0})


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=12))
def test_phases_give_every_step_its_weight(weights):
    found = phases(weights)
    assert [weight for steps, weight in found for _ in steps] == weights
    assert all(a[1] != b[1] and a[0].stop == b[0].start for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_taking_an_adapter_out_restores_every_bit(dtype, tmp_path):
    unet = tiny_unet(SD1).to(dtype)
    deltas = LoraFile(write(tmp_path / "a.safetensors", in_kohya(factors(unet.float(), "unet")))).deltas(
        layer_shapes(unet, "unet")
    )
    unet.to(dtype)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    bias = {"unet.conv_in.bias": Dense(torch.ones(32))}
    with Merged(unet, "unet", [(deltas, 0.73), (bias, -0.5)]) as merged:
        state = unet.state_dict()
        assert sum(not torch.equal(state[name], before[name]) for name in before) > 50
        assert merged.nbytes == sum(
            before[name].nbytes for name in before if not torch.equal(before[name], state[name])
        )
        with pytest.raises(AdapterError, match="merged already"):
            Merged(unet, "unet", [])
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    merged.remove()
    Merged(unet, "unet", []).remove()


@settings(max_examples=30, deadline=None)
@given(terms(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_whatever_was_merged_goes_again_bit_for_bit(found, dtype):
    unet = torch.nn.ModuleDict({"a": torch.nn.Linear(IN, OUT), "b": torch.nn.Conv2d(IN, OUT, 3)}).to(dtype)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    merged = Merged(unet, "unet", found)
    wanted = merged_state({f"unet.{name}": value for name, value in before.items()}, found, dtype)
    assert all(torch.equal(unet.state_dict()[name.removeprefix("unet.")], value) for name, value in wanted.items())
    merged.remove()
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


FACTORS = st.dictionaries(st.sampled_from(["unet", "unet.a", "unet.b", "text_encoder"]), WEIGHTS)


@settings(max_examples=40, deadline=None)
@given(terms(), FACTORS)
def test_factors_by_block_are_weights_of_layers(found, factors):
    by_block = tuple(sorted(factors.items()))
    for deltas, weight in found:
        by_hand = [({n: d}, weight * factors.get(n, factors.get("unet", 1.0))) for n, d in deltas.items()]
        one = merged_state(BASE, blocks.terms(deltas, weight, by_block), torch.float32)
        two = merged_state(BASE, by_hand, torch.float32)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_merge_that_does_not_fit_changes_nothing():
    unet = tiny_unet(SD1)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    odd = {"unet.conv_out": Dense(torch.ones(4, 32, 3, 3)), "unet.conv_in": Dense(torch.ones(3, 3))}
    with pytest.raises(MismatchError):
        Merged(unet, "unet", [(odd, 1.0)])
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    Merged(unet, "unet", []).remove()
