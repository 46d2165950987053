"""Caches that share a budget with a thread that reads ahead: what leaves for its sake leaves nothing broken."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from laur.core.pytorch.cpu import context
from laur.core.pytorch.cpu.context import ContextCache
from laur.pipeline.kept import Kept
from laur.utils.budget import Budget


@pytest.fixture
def reading() -> Iterator[Callable[[Budget], None]]:
    """Has a thread put entries into a budget for as long as the test lasts, switching as often as can be."""
    ended = threading.Event()
    threads: list[threading.Thread] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def read(budget: Budget) -> None:
        number = 0
        while not ended.is_set():
            number = (number + 1) % 3
            budget.hold(("read", number), budget.limit, lambda: None)

    def start(budget: Budget) -> None:
        threads.append(threading.Thread(target=read, args=(budget,), daemon=True))
        threads[-1].start()

    yield start
    ended.set()
    sys.setswitchinterval(before)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "the threads wait for one another"


def contexts(budget: Budget) -> ContextCache:
    def project(row: Tensor, _: object) -> list[tuple[Tensor, Tensor]]:
        return [(row.transpose(1, 2) * 2, row * 3)]

    cache = ContextCache(project)
    cache.share(budget)
    return cache


def test_keys_that_leave_while_they_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(10_000)
    cache, text = contexts(budget), torch.randn(5, 4)
    cache([text])

    def equal(a: Tensor, b: Tensor) -> bool:
        other = threading.Thread(target=budget.hold, args=("read", budget.limit, lambda: None), daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive(), "the threads wait for one another"
        return bool((a == b).all())

    monkeypatch.setattr(context.torch, "equal", equal)
    keys, _ = cache([text])[0]
    assert torch.equal(keys[0], text.t() * 2)
    assert len(cache) == 0


def test_keys_under_a_thread_that_reads_ahead(reading: Callable[[Budget], None]) -> None:
    budget = Budget(2000)
    cache = contexts(budget)
    texts = [torch.randn(5, 4) for _ in range(4)]
    reading(budget)
    for number in range(3000):
        text = texts[number % 3 if number % 2 else 3]
        assert torch.equal(cache([text])[0][1][0], text * 3)
    cache.clear()
    assert len(cache) == 0 and not any(key in budget for key in list(budget._held) if key[0] == "texts")
    assert cache._size == 0


def test_what_is_in_use_stays_when_it_is_told_to_leave_too_late() -> None:
    """The budget lets go of an entry first and says so afterwards: by then it may be in use again."""
    budget = Budget(100)
    kept: Kept[list[str]] = Kept(2, budget, lambda _: 60)
    first = kept.get("a", lambda: ["a"])
    kept.get("b", lambda: ["b"])
    late = budget._held.pop((kept, "a")).drop
    assert kept.get("a", lambda: ["another"]) is first
    late()
    assert kept.get("a", lambda: ["another"]) is first
    kept.get("b", lambda: ["b"])
    late()
    assert (kept, "a") in budget and kept.get("a", lambda: ["another"]) is first


def test_things_under_a_thread_that_reads_ahead(reading: Callable[[Budget], None]) -> None:
    budget = Budget(100)
    kept: Kept[list[int]] = Kept(2, budget, lambda _: 60)
    reading(budget)
    for number in range(20_000):
        wanted = number // 2 % 3
        assert kept.get(wanted, lambda wanted=wanted: [wanted]) == [wanted]
        assert wanted in list(kept) and len(kept) <= 2
