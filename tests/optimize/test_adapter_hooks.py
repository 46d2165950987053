from __future__ import annotations

import dataclasses

import pytest
import torch

from laur.core.denoiser import Row
from laur.core.errors import AdapterError
from laur.optimize import BaseAdapter
from laur.optimize.hooks import hooked_rows, hooked_x0, overrides


class Brighter(BaseAdapter):
    def __init__(self, by: float = 1.0) -> None:
        self.by = by

    def on_x0(self, step, total, x0):
        return x0 + self.by * step / total


class Conditioned(BaseAdapter):
    def rows(self, rows):
        return [dataclasses.replace(row, timestep=row.timestep + 1) for row in rows]

    def tokens(self, row):
        return torch.ones(2, 3)

    def residuals(self, row):
        return torch.ones(1), torch.full((1,), 2.0)


def row(**fields) -> Row:
    return Row(latent=torch.zeros(4, 2, 2), timestep=10.0, context=torch.zeros(5, 3), **fields)


def test_every_hook_does_nothing_by_default():
    adapter, x0, one = BaseAdapter(), torch.randn(4, 2, 2), row()
    assert adapter.deltas({}) == {}
    assert adapter.check({}) is None
    assert hooked_x0([(adapter, 1.0)], 1, 4, x0) is x0
    assert hooked_rows([(adapter, 1.0)], [one]) == [one]
    assert not adapter.recommends.accelerates and adapter.recommends.sampler is None
    assert not any(overrides(adapter, hook) for hook in ("rows", "tokens", "residuals", "on_x0", "deltas"))


@pytest.mark.parametrize(("weight", "change"), [(0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (2.0, 1.0), (-1.0, -0.5)])
def test_a_weight_scales_what_the_hook_changes(weight, change):
    x0 = torch.randn(4, 2, 2)
    before = x0.clone()
    torch.testing.assert_close(hooked_x0([(Brighter(), weight)], 2, 4, x0), x0 + change)
    assert torch.equal(x0, before)


def test_hooks_follow_one_another():
    x0 = torch.zeros(4, 2, 2)
    assert torch.equal(hooked_x0([(Brighter(), 1.0), (Brighter(2.0), 0.5)], 4, 4, x0), x0 + 2)


def test_rows_tokens_and_residuals():
    adapter = Conditioned()
    first = row(image_tokens=torch.zeros(1, 3), residuals=(torch.ones(1), torch.ones(1)))
    a, b = hooked_rows([(adapter, 0.5)], [first, row()])
    assert a.timestep == b.timestep == 11
    assert a.image_tokens is not None and a.image_tokens.shape == (3, 3)
    assert b.image_tokens is not None and b.image_tokens.shape == (2, 3)
    assert a.residuals is not None and [float(t) for t in a.residuals] == [1.5, 2.0]
    assert b.residuals is not None and [float(t) for t in b.residuals] == [0.5, 1.0]
    assert hooked_rows([(adapter, 0.0)], [first]) == [first]


@pytest.mark.parametrize("gives", [lambda x0: x0[:, :1], lambda x0: None], ids=["another shape", "nothing"])
def test_what_on_x0_gives_must_have_the_shape_of_x0(gives):
    class Odd(BaseAdapter):
        def on_x0(self, step, total, x0):
            return gives(x0)

    with pytest.raises(AdapterError, match="'Odd' failed in on_x0"):
        hooked_x0([(Odd(), 1.0)], 1, 4, torch.zeros(4, 2, 2))


@pytest.mark.parametrize(
    "gives",
    [
        lambda rows: rows[:0],
        lambda rows: None,
        lambda rows: [dataclasses.replace(rows[0], latent=torch.zeros(4, 1, 1))],
    ],
    ids=["fewer", "nothing", "another shape"],
)
def test_rows_must_stay_as_many_and_as_large(gives):
    class Odd(BaseAdapter):
        def rows(self, rows):
            return gives(rows)

    with pytest.raises(AdapterError, match="'Odd' failed in rows"):
        hooked_rows([(Odd(), 1.0)], [row()])


def test_the_hash_follows_content():
    class Same(BaseAdapter):
        def on_x0(self, step, total, x0):
            return x0 * 2

    assert Brighter().sha256 == Brighter().sha256
    assert Brighter(1.0).sha256 != Brighter(2.0).sha256
    assert len({Brighter().sha256, Conditioned().sha256, Same().sha256}) == 3
    named = Brighter()
    named.name = "registered"
    assert named.sha256 == Brighter().sha256, "what it is called is not what it does"


class Holding(BaseAdapter):
    def __init__(self, value):
        self.value = value
        self._later = None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1.0, 0.0), (0.0, 1.0)),
        ({"a": 1}, {"a": 2}),
        (torch.zeros(3), torch.ones(3)),
        (torch.zeros(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.float16)),
        (torch.zeros(3).numpy(), torch.ones(3).numpy()),
        (None, 0),
    ],
)
def test_the_hash_follows_whatever_an_instance_holds(one, other):
    assert Holding(one).sha256 == Holding(one).sha256
    assert Holding(one).sha256 != Holding(other).sha256


def test_what_is_filled_in_later_does_not_change_the_hash():
    adapter = Holding(1)
    before = adapter.sha256
    adapter._later = object()
    assert adapter.sha256 == before
    with pytest.raises(AdapterError, match=r"Holding\.value is a object"):
        _ = Holding(object()).sha256


def test_a_class_without_source_is_known_by_its_code():
    """As in a notebook, where a cell that is run again defines the class anew under its old name."""
    source = "class Typed(BaseAdapter):\n    def on_x0(self, step, total, x0):\n        return x0 * {}"

    def typed(factor):
        space = {"BaseAdapter": BaseAdapter, "__name__": "__main__"}
        exec(source.format(factor), space)
        return space["Typed"]()

    assert typed(0.5).sha256 == typed(0.5).sha256
    assert typed(0.5).sha256 != typed(0.9).sha256


def test_the_hash_follows_the_parent_class_too():
    def child(parent):
        return type("Child", (parent,), {"__module__": "__main__"})()

    assert child(Brighter).sha256 != child(Conditioned).sha256


@pytest.mark.parametrize("hook", ["on_x0", "rows", "tokens", "residuals"])
def test_a_hook_that_raises_is_named_in_one_line(hook):
    def fail(self, *args):
        raise ValueError("no\nsuch thing")

    adapter = type("Broken", (BaseAdapter,), {hook: fail})()
    with pytest.raises(
        AdapterError, match=rf"adapter 'Broken' failed in .*{hook}.*: ValueError: no such thing"
    ) as info:
        hooked_x0([(adapter, 1.0)], 1, 4, torch.zeros(4, 2, 2))
        hooked_rows([(adapter, 1.0)], [row()])
    assert "\n" not in str(info.value)
