"""Several owners share an Engine: calls, decoding, and the same pictures as ever."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laur.core.recipe import Recipe
from laur.pipeline import sharing
from laur.pipeline.engine import Engine
from laur.pipeline.events import Done, Progress
from laur.render.compare import psnr

OWNERS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2)), min_size=1, max_size=12)


def running(owner: str | None, rows: int = 1) -> Any:
    return SimpleNamespace(ticket=SimpleNamespace(owner=owner), stage=SimpleNamespace(rows=[0] * rows))


@given(OWNERS, st.integers(1, 8))
def test_a_call_serves_the_oldest_and_stays_within_its_bounds(tickets: list[tuple[str, int]], cap: int) -> None:
    lane = [running(owner, rows) for owner, rows in tickets]
    most = sharing.most_each(lane)
    chosen = sharing.fill(lane, cap, most)
    assert chosen[0] is lane[0]
    assert sum(len(one.stage.rows) for one in chosen) <= max(cap, len(lane[0].stage.rows))
    assert (most is None) == (len({owner for owner, _ in tickets}) == 1)
    for owner in {one.ticket.owner for one in chosen} if most is not None else ():
        rows = [len(one.stage.rows) for one in chosen if one.ticket.owner == owner]
        assert sum(rows) <= max(most or 0, rows[0])


@given(OWNERS)
def test_decoding_takes_turns(tickets: list[tuple[str, int]]) -> None:
    lane = [running(owner) for owner, _ in tickets]
    order = sharing.turns(lane)
    assert sorted(map(id, order)) == sorted(map(id, lane))
    firsts = [one.ticket.owner for one in order[: len({owner for owner, _ in tickets})]]
    assert len(firsts) == len(set(firsts))


def test_only_what_has_an_owner_is_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "LEAST", 0.0)
    assert sharing.is_enough(running("a"), 0.0, 0.0)
    assert not sharing.is_enough(running(None), 0.0, 0.0)


def test_one_picture_beside_a_flood(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes the flood's pictures, and all are what they are alone."""
    monkeypatch.setattr(sharing, "LEAST", 0.0)
    recipes = [Recipe(prompt="a fox", seed=seed, steps=2, width=64, height=64) for seed in range(7)]
    resolved = [engine32.resolve(recipe) for recipe in recipes]
    flood = [engine32.submit(one.plan, one.recipe, "flood") for one in resolved[:6]]
    engine32.step()
    lone = engine32.submit(resolved[6].plan, resolved[6].recipe, "lone")
    events = []
    while engine32.busy:
        events += engine32.step()
    calls = [event.call for event in events if isinstance(event, Progress) and event.ticket is lone]
    assert [call.rows for call in calls if call is not None] == [2, 2]
    done = [event.ticket for event in events if isinstance(event, Done)]
    assert set(done) == {*flood, lone}
    assert done.index(lone) <= 3
    pictures = {event.ticket: event.picture.pixels for event in events if isinstance(event, Done)}
    assert psnr(pictures[lone], engine32.pictures([recipes[6]])[0].pixels) >= 80


def test_finished_pictures_are_decoded_over_several_steps(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laur.pipeline.engine.is_enough", lambda running, call, began: True)
    resolved = [engine32.resolve(Recipe(prompt="a fox", seed=n, steps=1, width=64, height=64)) for n in range(3)]
    tickets = [engine32.submit(one.plan, one.recipe, owner) for one, owner in zip(resolved, "aab", strict=True)]
    done: list[list[int]] = []
    while engine32.busy:
        done.append([tickets.index(event.ticket) for event in engine32.step() if isinstance(event, Done)])
    assert sorted(one for step in done for one in step) == [0, 1, 2]
    assert max(map(len, done)) == 1


def test_what_waits_to_be_decoded_can_be_cancelled(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laur.pipeline.engine.is_enough", lambda running, call, began: True)
    resolved = [engine32.resolve(Recipe(prompt="a fox", seed=n, steps=1, width=64, height=64)) for n in range(2)]
    _, second = (engine32.submit(one.plan, one.recipe, "a") for one in resolved)
    engine32.step()
    assert engine32.cancel(second)
    events = engine32.step()
    assert [type(event).__name__ for event in events] == ["Cancelled"]
    assert not engine32.busy
