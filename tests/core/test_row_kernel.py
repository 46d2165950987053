"""The Triton kernel in Triton's own interpreter equals the batched products; it is compiled where a GPU is at hand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from laur.core.pytorch.rows import kernel

pytest.importorskip("triton")

PROGRAM = """
import torch
from laur.core.pytorch.rows.kernel import add_low_rank, available
device = "{device}"
assert available()
draw = torch.Generator().manual_seed(0)
for runs, length, inner, out, size, own in [(3, 70, 40, 100, 16, (16, 3, 0)), (2, 64, 130, 64, 32, (20, 32))]:
    y, x, down, up = (torch.randn(shape, generator=draw) for shape in
        ((runs, length, out), (runs, length, inner), (runs, inner, size), (runs, size, out)))
    wanted = y.clone()
    for g, rank in enumerate(own):
        wanted[g] += x[g] @ down[g, :, :rank] @ up[g, :rank]
    ranks = torch.tensor(own, dtype=torch.int32, device=device)
    got = add_low_rank(y.to(device), x.to(device), down.to(device), up.to(device), ranks).cpu()
    error = float((got - wanted).norm() / wanted.norm())
    assert error <= 1e-5, error
print("equal")
"""


def run(device: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(device=device)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return found.stdout + found.stderr


def test_equals_the_products_in_the_interpreter() -> None:
    assert run("cpu", TRITON_INTERPRET="1").strip().endswith("equal")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_equals_the_products_on_a_gpu() -> None:
    assert run("cuda").strip().endswith("equal")


def test_odd_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="pad it"):
        kernel.add_low_rank(*(torch.zeros(1, 2, 24) for _ in range(3)), torch.zeros(1, 24, 2), torch.zeros(1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="without a GPU")
def test_is_off_without_a_gpu() -> None:
    assert not kernel.faster((4, 64, 320, 320, 16), torch.float32)
