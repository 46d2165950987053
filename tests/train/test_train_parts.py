"""Optimisers, average, trees of state, journal lines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from laur.core.errors import DataError
from laur.train.average import Average, decay_at
from laur.train.config import OptimiserConfig
from laur.train.journal import Entry, Journal, read
from laur.train.optimisers import Optimisers, factor, is_hidden_matrix, orthogonal
from laur.train.prefetch import Prefetch
from laur.train.processes import Processes
from laur.train.trees import pack, unpack


def network() -> nn.Module:
    torch.manual_seed(1)
    parts = {
        "conv_in": nn.Conv2d(2, 4, 3),
        "middle": nn.Conv2d(4, 4, 3),
        "proj": nn.Linear(4, 6),
        "norm": nn.LayerNorm(6),
    }
    return nn.ModuleDict(parts)


def test_newton_schulz_takes_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 8, 24), (1, 24, 8), (1, 5, 5)):
        matrices = torch.randn(shape)
        values = torch.linalg.svdvals(orthogonal(matrices))
        assert values.min() > 0.5
        assert values.max() < 1.3
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        overlap = (orthogonal(matrices) * (u @ v)).sum(dim=(1, 2)) / min(shape[1:])
        assert bool((overlap > 0.7).all())


def test_muon_takes_hidden_matrices_and_moves_them_as_far_as_adamw() -> None:
    model = network()
    parameters = dict(model.named_parameters())
    assert [n for n, p in parameters.items() if is_hidden_matrix(n, p)] == ["middle.weight", "proj.weight"]
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimisers = Optimisers(parameters, OptimiserConfig(name="muon", lr=1e-2, weight_decay=0.0))
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    assert optimisers.step(0.5) == pytest.approx(5e-3)
    state = optimisers.state_dict()
    assert set(state["muon"]) == {"middle.weight", "proj.weight"}
    assert set(state["adamw"]) == set(parameters) - set(state["muon"])
    for name in state["muon"]:
        moved = (parameters[name] - before[name]).square().mean().sqrt()
        assert 0.1 * 5e-3 < moved < 0.3 * 5e-3  # a root mean square of 0.2 lr


def test_decay_is_for_matrices() -> None:
    parameters = dict(network().named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    for name in ("adamw", "muon"):
        Optimisers(parameters, OptimiserConfig(name=name, lr=0.1, weight_decay=0.5)).step(1.0)
    for name, parameter in parameters.items():
        expected = before[name] * (0.95**2 if parameter.ndim > 1 else 1)
        assert torch.allclose(parameter, expected, atol=1e-6), name


def test_a_saved_optimiser_goes_on_as_it_would_have() -> None:
    gradients = [torch.randn(200, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    outcomes = []
    for cut in (None, 2):
        parameters = dict(network().named_parameters())
        config = OptimiserConfig(name="muon", lr=1e-2)
        optimisers = Optimisers(parameters, config)
        for i, gradient in enumerate(gradients):
            if i == cut:
                state = unpack(*pack(optimisers.state_dict()))
                optimisers = Optimisers(parameters, config)
                optimisers.load_state_dict(state)
            for p in parameters.values():
                p.grad = gradient[: p.numel()].reshape(p.shape).clone()
            optimisers.step(1 / (i + 1))
        outcomes.append(torch.cat([p.detach().flatten() for p in parameters.values()]))
    assert torch.equal(*outcomes)


def test_the_schedule() -> None:
    config = OptimiserConfig(lr=1.0, warmup=10, final=0.1)
    assert factor(config, 0, 0.0) == pytest.approx(0.1)
    assert factor(config, 9, 0.0) == 1.0
    assert factor(config, 50, 0.5) == pytest.approx(0.55)
    assert factor(config, 99, 1.0) == pytest.approx(0.1)
    assert factor(OptimiserConfig(schedule="constant", warmup=0), 99, 1.0) == 1.0


def test_the_average_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = Average({"w": weight}, 0.5)
    expected = 1.0
    for n in range(1, 8):
        with torch.no_grad():
            weight.fill_(n)
        average.update(n)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert average.weights()["w"].item() == pytest.approx(expected)
    assert decay_at(0, 0.999) == pytest.approx(0.1)
    assert decay_at(100_000, 0.999) == 0.999
    assert Average({"w": weight}, 0.0).weights()["w"].item() == 7


def test_trees_come_back() -> None:
    tree = {"a": {"b": torch.arange(6).reshape(2, 3).T, "c": [1, 2.5, None, True, "ü"]}, "d": torch.tensor(3.0)}
    tensors, rest = pack(tree)
    assert set(tensors) == {"a/b", "d"}
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    back = unpack(tensors, rest)
    assert torch.equal(back["a"]["b"], tree["a"]["b"])
    assert back["a"]["c"] == tree["a"]["c"]
    for wrong in ({"x": object()}, {1: 2}, {"x": {3}}):
        with pytest.raises(TypeError):
            pack(wrong)


def entry(update: int) -> Entry:
    return Entry(update, 0.123456789, {"mse": math.pi}, 1e-4, 2.0, 30.0, 4.0, 100.0)


def test_a_journal_cut_in_the_middle_of_a_line_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0, tensorboard=False)
    for update in range(4):
        journal.write(entry(update))
    journal.close()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    journal = Journal(tmp_path, 3, tensorboard=False)
    journal.write(entry(3))
    journal.close()
    lines = list(read(path))
    assert [line["update"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["loss"] == 0.1234568
    assert lines[0]["parts"] == {"mse": 3.141593}


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (8, 8)).save(tmp_path / "sheet.png")
    for first in (0, 2):  # updates 2 and 3 are done again
        journal = Journal(tmp_path, first, tensorboard=True)
        for update in range(first, 4):
            journal.write(entry(update))
        journal.picture("sheet", 4, tmp_path / "sheet.png")
        journal.sync()
        journal.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2, 3]
    assert events.Scalars("loss/mse")[0].value == pytest.approx(math.pi)


class CountingFeed:
    """Says what it was asked for; a fault at update 3."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def batch(self, update: int, rows: slice) -> Any:
        self.asked.append((update, rows.start))
        if update == 3:
            raise DataError("a broken shard")
        return update, rows


def test_a_feed_that_is_one_slice_ahead_gives_the_same() -> None:
    feed, rows = CountingFeed(), Processes(1, 2).rows(8, 2)
    ahead = Prefetch(feed, rows)
    for update in range(3):
        for part in rows:
            assert ahead.batch(update, part) == (update, part)
    with pytest.raises(DataError, match="a broken shard"):
        ahead.batch(3, rows[0])
    ahead.close()
    assert feed.asked[:7] == [(0, 4), (0, 6), (1, 4), (1, 6), (2, 4), (2, 6), (3, 4)]


def test_a_feed_that_jumps_is_not_confused() -> None:
    rows = Processes().rows(4, 1)
    ahead = Prefetch(CountingFeed(), rows)
    assert ahead.batch(0, rows[0]) == (0, rows[0])
    assert ahead.batch(7, rows[0]) == (7, rows[0])
    assert ahead.batch(0, rows[0]) == (0, rows[0])
    ahead.close()
