"""Several owners share an Engine: calls, decoding, and the same pictures as ever."""

import time
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

CAP = 1000
"""Rows that no test fills."""
OWNERS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2)), min_size=1, max_size=12)


def running(owner: str | None, rows: int = 1, *, finished: bool = False) -> Any:
    known = {"latent": SimpleNamespace(shape=(4, 2, 2)), "finished": finished}
    return SimpleNamespace(ticket=SimpleNamespace(owner=owner), stage=SimpleNamespace(rows=[0] * rows), **known)


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


class Clock:
    """Stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def use(clock: Clock, **had: int) -> sharing.Usage:
    """Owners who had so many rows of 2x2 latent pixels just now, a single one beside another who had none."""
    usage = sharing.Usage(clock)
    usage.waiting([running(owner) for owner in (had if len(had) > 1 else (*had, "another"))], CAP)
    usage.charge(running(owner, rows) for owner, rows in had.items())
    return usage


@pytest.mark.parametrize(
    ("had", "rows", "waiting"),
    [
        ({"a": 8}, {"a": 20}, set[str]()),
        ({"a": 8, "b": 24}, {"a": 20, "b": 1}, {"a"}),
        ({"a": 8, "b": 25}, {"a": 20, "b": 1}, set[str]()),  # b is far ahead
        ({"a": 8, "b": 24}, {"a": 20, "b": 7}, set[str]()),  # and has not few
        ({"a": 9, "b": 1}, {"a": 20, "b": 1}, {"a"}),
        ({"a": 9, "b": 9, "c": 1}, {"a": 20, "b": 20, "c": 1}, {"a", "b"}),
        ({"a": 9, "b": 9, "c": 9}, {"a": 9, "b": 6, "c": 4}, set[str]()),  # floods, all of them
        ({"a": 30, "b": 9, "c": 1}, {"a": 20, "b": 4, "c": 1}, {"a"}),
        ({"a": 1, "b": 14, "c": 12}, {"a": 20, "b": 1}, set[str]()),
        ({"a": 1, "b": 14, "c": 13}, {"a": 20, "b": 1}, {"a"}),  # c drew of late too: it counts for the share
        ({"a": 9, "b": 1}, {"a": 9 * CAP, "b": CAP - 1}, {"a"}),
        ({"a": 9, "b": 1}, {"a": 9 * CAP, "b": CAP}, set[str]()),  # whose rows fill the call
    ],
)
def test_who_has_many_waits_for_those_with_few_who_are_not_ahead(
    had: dict[str, int], rows: dict[str, int], waiting: set[str]
) -> None:
    active = [running(owner, count) for owner, count in rows.items()]
    assert use(Clock(), **had).waiting(active, CAP) == waiting


@given(OWNERS, OWNERS)
def test_somebody_is_drawn_for(before: list[tuple[str, int]], now: list[tuple[str, int]]) -> None:
    usage = sharing.Usage(Clock())
    usage.waiting([running(owner, rows) for owner, rows in before], CAP)
    usage.charge([running(owner, rows) for owner, rows in before])
    active = [running(owner, rows, finished=rows > 1) for owner, rows in now]
    drawing = {one.ticket.owner for one in active if not one.finished}
    assert not drawing or drawing - usage.waiting(active, CAP)


def test_nobody_waits_for_those_who_have_nothing_to_draw() -> None:
    usage, flood, lone = use(Clock(), flood=8), running("flood", 9), running("lone", finished=True)
    assert usage.waiting([flood, running("lone")], CAP) == {"flood"}
    assert not usage.waiting([flood, lone], CAP)
    assert not usage.waiting([flood], CAP)


def test_nobody_waits_for_ever() -> None:
    """Newcomers without end, who have had nothing, keep nobody out."""
    usage = use(Clock(), old=100)
    turns = ["old" in usage.waiting([running("old", 9), running(f"new {turn}")], CAP) for turn in range(60)]
    served = [turn for turn, waits in enumerate(turns) if not waits]
    assert served == [sharing.PATIENCE + turn * (sharing.PATIENCE + 1) for turn in range(3)]


def test_use_fades() -> None:
    usage, both = use(clock := Clock(), flood=64, lone=2), [running("flood", 9), running("lone")]
    assert usage.waiting(both, CAP) == {"flood"}
    clock.now = 20 * sharing.HALF_LIFE
    usage.waiting(both, CAP)
    usage.charge([running("lone")])
    assert not usage.waiting(both, CAP)


def test_what_is_drawn_while_nobody_else_is_about_counts_nowhere() -> None:
    usage, flood, lone = sharing.Usage(clock := Clock()), running("flood", 64), running("lone")
    for _ in range(3):
        assert not usage.waiting([flood], CAP)
        usage.charge([flood])
    assert not usage.alone()
    assert usage.waiting([flood, lone], CAP) == {"flood"}
    usage.charge([lone])
    assert not usage.alone()
    assert not usage.waiting([flood, lone], CAP)  # of what counts the other has had all
    clock.now = sharing.RECENT / 2
    usage.waiting([flood], CAP)
    assert usage.alone()
    clock.now = 2 * sharing.RECENT
    usage.waiting([flood], CAP)
    assert not usage.alone()


def test_only_what_has_an_owner_is_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "BRIEF", 0.0)
    assert sharing.is_enough(running("a"), 0.0, 0.0, brief=False)
    assert not sharing.is_enough(running(None), 0.0, 0.0, brief=True)


def test_decoding_is_brief_where_others_may_come() -> None:
    now = time.perf_counter()
    assert not sharing.is_enough(running("a"), 600.0, now - 900.0, brief=False)
    assert sharing.is_enough(running("a"), 600.0, now - 900.0, brief=True)


def test_one_picture_beside_a_flood(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes the flood's pictures, and all are what they are alone."""
    engine32 = Engine("mini", library=engine32.library)  # nobody else has drawn with it of late
    monkeypatch.setattr(sharing, "BRIEF", 0.0)
    recipes = [Recipe(prompt="a fox", seed=seed, steps=2, width=64, height=64) for seed in range(7)]
    resolved = [engine32.resolve(recipe) for recipe in recipes]
    flood = [engine32.submit(one.plan, one.recipe, "flood") for one in resolved[:6]]
    engine32.step()
    lone = engine32.submit(resolved[6].plan, resolved[6].recipe, "lone")
    events = []
    while engine32.busy:
        events += engine32.step()
    calls = [event.call for event in events if isinstance(event, Progress) and event.ticket is lone]
    assert [call.rows for call in calls if call is not None] == [1, 2]  # before the flood, then with it
    done = [event.ticket for event in events if isinstance(event, Done)]
    assert set(done) == {*flood, lone}
    assert done.index(lone) <= 3
    pictures = {event.ticket: event.picture.pixels for event in events if isinstance(event, Done)}
    assert psnr(pictures[lone], engine32.pictures([recipes[6]])[0].pixels) >= 80


def test_finished_pictures_are_decoded_over_several_steps(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laur.pipeline.engine.is_enough", lambda running, call, began, brief: True)
    resolved = [engine32.resolve(Recipe(prompt="a fox", seed=n, steps=1, width=64, height=64)) for n in range(3)]
    tickets = [engine32.submit(one.plan, one.recipe, owner) for one, owner in zip(resolved, "aab", strict=True)]
    done: list[list[int]] = []
    while engine32.busy:
        done.append([tickets.index(event.ticket) for event in engine32.step() if isinstance(event, Done)])
    assert sorted(one for step in done for one in step) == [0, 1, 2]
    assert max(map(len, done)) == 1


def test_what_waits_to_be_decoded_can_be_cancelled(engine32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laur.pipeline.engine.is_enough", lambda running, call, began, brief: True)
    resolved = [engine32.resolve(Recipe(prompt="a fox", seed=n, steps=1, width=64, height=64)) for n in range(2)]
    _, second = (engine32.submit(one.plan, one.recipe, "a") for one in resolved)
    engine32.step()
    assert engine32.cancel(second)
    events = engine32.step()
    assert [type(event).__name__ for event in events] == ["Cancelled"]
    assert not engine32.busy
