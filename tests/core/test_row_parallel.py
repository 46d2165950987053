"""A pair of layers with adapters over two processes equals one process, and adapters send little."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from laur.core.pytorch.rows.batch import RowBatch
from laur.core.pytorch.rows.factors import Factors, Fused, RowSet
from laur.core.pytorch.rows.parallel import ColumnParallel, Ranks, RowParallel, share
from laur.core.pytorch.rows.product import add_linear

WIDTH, INNER = 96, 384


def example() -> tuple[Tensor, list[RowSet | None], dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 0.1

    def made(rank: int) -> RowSet:
        first = Factors(rand(INNER, rank), rand(rank, WIDTH))
        return RowSet({"one": first, "two": Factors(rand(WIDTH, rank), rand(rank, INNER))})

    weights = {"one": rand(INNER, WIDTH), "one.bias": rand(INNER), "two": rand(WIDTH, INNER), "two.bias": rand(WIDTH)}
    a, b = made(4), made(7)
    return rand(5, 16, WIDTH), [a, a, None, b, made(16)], weights


def alone(x: Tensor, batch: RowBatch, weights: dict[str, Tensor]) -> Tensor:
    for name, width in (("one", INNER), ("two", WIDTH)):
        y = nn.functional.linear(x, weights[name], weights[f"{name}.bias"])
        x = add_linear(y, x, batch.groups(Fused.single(name, width)))
        x = nn.functional.gelu(x) if name == "one" else x
    return x


def process(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    x, sets, weights = example()
    ranks, batch = Ranks.here(), RowBatch(sets)
    one = ColumnParallel(ranks, "one", weights["one"], weights["one.bias"])
    two = RowParallel(ranks, "two", weights["two"], weights["two.bias"])
    y = two(nn.functional.gelu(one(x, batch)), batch)
    torch.save({"y": y, "base": ranks.sent.base, "adapters": ranks.sent.adapters}, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (port, str(tmp_path)), nprocs=2)
    x, sets, weights = example()
    wanted = alone(x, RowBatch(sets), weights)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert float((found["y"] - wanted).norm() / wanted.norm()) <= 1e-5
        assert found["base"] == 5 * 16 * WIDTH * 4
        # two rows of bucket 4, one of 8, one of 16; in full before the second layer, a half of it before the first
        assert found["adapters"] == 16 * (2 * 4 + 8 + 16) * 4 * 3 // 2


def test_a_process_holds_its_share_of_each_factor() -> None:
    _, sets, _ = example()
    rows = sets[0]
    assert rows is not None
    shares = [share(rows, "one", Ranks(rank, 2), by_input=False) for rank in range(2)]
    assert torch.equal(torch.cat([part.up for part in shares]), rows.layers["one"].up)
    assert torch.equal(torch.cat([part.down for part in shares]), rows.layers["one"].down)
    shares = [share(rows, "two", Ranks(rank, 2), by_input=True) for rank in range(2)]
    assert torch.equal(torch.cat([part.down for part in shares], 1), rows.layers["two"].down)
    assert sum(part.nbytes for part in shares) == rows.layers["two"].nbytes


def test_widths_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be shared evenly"):
        Ranks(0, 2).cut(7)
