"""What is let go of is freed: networks with adapters merged in, and what rows packed of their layers."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch import Tensor

from helpers.tiny import tiny_parts
from laur.core.pytorch.cpu.context import ContextCache
from laur.core.pytorch.cpu.unet import FastUNet
from laur.core.pytorch.rows.factors import Factors, RowSet
from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline.device import choose
from laur.pipeline.engine import Engine
from laur.pipeline.kept import Kept
from laur.pipeline.library import Library
from laur.utils.budget import Budget

SMALL = {"prompt": "a red fox", "seed": 7, "steps": 1, "width": 64, "height": 64}


class _Owner:
    """A network, as far as a cache of texts knows one."""

    def __init__(self, budget: Budget) -> None:
        self.cache = ContextCache(self._project)
        self.cache.share(budget)

    def _project(self, row: Tensor, _: object) -> list[tuple[Tensor, Tensor]]:
        return [(row.transpose(1, 2), row)]


def test_texts_in_a_budget_do_not_hold_their_network() -> None:
    budget = Budget(10_000)
    owner = _Owner(budget)
    owner.cache([torch.randn(5, 4)])
    assert budget.used > 0
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
    budget.hold("another", budget.limit, lambda: None)  # has what is left leave: nothing to do, and no fault
    assert len(budget) == 1


def test_texts_in_a_budget_do_not_hold_their_adapters() -> None:
    """A set that the budget let go of is freed, though texts under it are still counted."""
    owner = _Owner(Budget(10_000))
    text, rows = torch.randn(5, 4), RowSet({"a": Factors(torch.ones(2, 4), torch.ones(4, 3))})
    first = owner.cache([text], [rows])
    assert owner.cache([text], [rows]) is first
    gone = weakref.ref(rows)
    del rows
    assert gone() is None
    again = RowSet({"a": Factors(torch.ones(2, 4), torch.ones(4, 3))})
    assert owner.cache([text], [again]) is not first, "another set, whatever its address"


def test_what_a_row_packed_of_a_layer_dies_with_the_layer() -> None:
    class Layer:
        pass

    rows = RowSet({"a": Factors(torch.ones(2, 4), torch.ones(4, 3))})
    own = rows.nbytes
    layer, other = Layer(), Layer()
    rows.keep("merged", torch.zeros(100), 400, layer)
    rows.keep("merged", torch.zeros(100), 400, other)
    rows.keep("factors", torch.zeros(10), 40)
    assert rows.derived("merged", layer) is not rows.derived("merged", other)
    assert rows.nbytes == own + 840
    del layer
    assert rows.nbytes == own + 440
    rows.keep("merged", torch.zeros(50), 200, other)
    assert rows.nbytes == own + 240
    assert rows.derived("merged") is None


def test_a_set_that_outlives_a_network_is_merged_anew_into_the_next() -> None:
    """Of two networks that had one address after the other, the second's rows are the second's."""
    torch.manual_seed(0)
    unets: list[Any] = [tiny_parts("sd1", seed=seed)["unet"] for seed in (0, 1)]
    shapes = {name: m.weight.shape for name, m in unets[0].named_modules() if name.endswith(("conv1", "to_q"))}
    rows = RowSet({n: Factors(torch.randn(s[0], 2) * 0.1, torch.randn(2, *s[1:]) * 0.1) for n, s in shapes.items()})
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 77, unets[0].config.cross_attention_dim)
    for unet in (*unets, *unets):
        network = FastUNet(unet, torch.float32)
        found = network(x, t, text, adapters=[rows])
        fresh = RowSet(rows.layers)
        assert torch.equal(found, network(x, t, text, adapters=[fresh]))
        del network
        gc.collect()


def test_kept_things_are_told_when_they_leave() -> None:
    budget, ended = Budget(100), list[str]()
    kept: Kept[str] = Kept(2, budget, lambda _: 60, ended.append)
    for name in "abc":
        kept.get(name, lambda name=name: name)
    assert ended == ["a"]  # for the limit
    budget.hold("another", 90, lambda: None)
    assert ended == ["a", "b"]  # for the budget
    with kept.room_for(3):
        kept.get("d", lambda: "d")
        budget.release("another")
        kept.get("e", lambda: "e")
    assert "d" in list(kept) and ended == ["a", "b", "c"]


def test_networks_with_adapters_merged_in_are_freed() -> None:
    engine = Engine("mini", library=Library(choose("cpu", "float32")))
    networks: list[weakref.ref[object]] = []
    for weight in (0.5, 0.6, 0.7, 0.8):
        wish = Recipe(**SMALL, adapters=(AdapterRef(name="lcm-lora-mini", weight=weight),))
        engine.run([wish])
        denoisers = engine.library._denoisers
        networks.append(weakref.ref(denoisers[list(denoisers)[-1]].network))
    gc.collect()
    assert [network() is None for network in networks] == [True, True, False, False]
