"""Turn-taking, on tickets that are nothing but a lane and a size."""

import collections
import itertools
from types import SimpleNamespace
from typing import Any

import torch

from laur.pipeline.lanes import TURNS_PER_DENOISER, Lanes
from laur.pipeline.sharing import BRIEF


def running(lane: str, rows: int = 1, side: int = 32, denoiser: str = "plain", owner: str | None = None) -> Any:
    return SimpleNamespace(
        lane=("base", denoiser, lane),
        latent=torch.zeros(4, side, side),
        stage=SimpleNamespace(rows=[None] * rows),
        finished=False,
        ticket=SimpleNamespace(owner=owner),
    )


def test_only_tickets_of_one_lane_step_together() -> None:
    active = [running("a"), running("b"), running("a")]
    assert Lanes(10**6).pick(active) == [active[0], active[2]]


def test_lanes_take_turns_however_full_one_is() -> None:
    flood, lone = [running("flood") for _ in range(50)], running("lone")
    lanes = Lanes(10**6)
    served = [lanes.pick([*flood, lone])[0].lane[-1] for _ in range(6)]
    assert served == ["flood", "lone"] * 3


def test_a_new_lane_waits_for_those_that_waited_longer_and_no_more() -> None:
    lanes, old = Lanes(10**6), [running("a"), running("b")]
    lanes.pick(old)
    served = [lanes.pick([*old, running("new")])[0].lane[-1] for _ in range(3)]
    assert served == ["b", "a", "new"]


def test_newcomers_without_end_starve_nobody() -> None:
    lanes, old = Lanes(10**6), running("old")
    lanes.pick([running("first")])
    served = [lanes.pick([old, running(f"new {turn}")])[0].lane[-1] for turn in range(6)]
    assert served.count("old") >= 2


def test_a_merged_denoiser_is_kept_for_some_turns() -> None:
    lanes = Lanes(10**6)
    active = [running("x", denoiser=name) for name in ("one", "two", "three")]
    served = [lanes.pick(active)[0].lane[1] for _ in range(3 * TURNS_PER_DENOISER)]
    assert sum(a != b for a, b in itertools.pairwise(served)) == 2
    assert {served.count(name) for name in ("one", "two", "three")} == {TURNS_PER_DENOISER}


def test_the_cap_counts_rows_and_pixels() -> None:
    cap = 8 * 32 * 32
    assert len(Lanes(cap).pick([running("a") for _ in range(20)])) == 8
    assert len(Lanes(cap).pick([running("a", rows=2) for _ in range(20)])) == 4
    assert len(Lanes(cap).pick([running("a", side=64) for _ in range(20)])) == 2


def test_one_ticket_always_fits() -> None:
    assert len(Lanes(1).pick([running("a", side=256)])) == 1


def test_nothing_to_do() -> None:
    assert Lanes(1).pick([]) == []


def test_sizes_share_by_what_their_calls_cost() -> None:
    """A large picture's call costs four small ones': in the time of one, the other size has its four."""
    flood, small = [running("large", side=64) for _ in range(20)], running("small", side=32)
    lanes = Lanes(lambda pixels: 1)
    served = [lanes.pick([*flood, small])[0].lane[-1] for _ in range(20)]
    assert served.count("large") == 4
    assert "large" not in served[:2]


def test_caps_may_be_measured_for_each_size() -> None:
    lanes = Lanes(lambda pixels: {32 * 32: 6, 64 * 64: 3}[pixels])
    assert len(lanes.pick([running("a") for _ in range(20)])) == 6
    assert len(lanes.pick([running("b", side=64) for _ in range(20)])) == 3
    assert len(lanes.pick([running("c", rows=2) for _ in range(20)])) == 3


def test_beside_a_flood_a_call_has_as_many_rows_of_each() -> None:
    flood = [running("a", owner="flood") for _ in range(3)]
    lone, pair = running("a", owner="lone"), [running("a", owner="pair") for _ in range(2)]
    assert Lanes(10**6).pick(flood) == flood
    assert Lanes(10**6).pick([*flood, lone]) == [flood[0], lone]
    assert Lanes(10**6).pick([*flood, *pair]) == [flood[0], pair[0], flood[1], pair[1]]
    assert Lanes(10**6).pick([*flood, lone, *pair]) == [flood[0], lone, pair[0]]


def test_in_other_lanes_too() -> None:
    lanes, flood = Lanes(10**6), [running("a", owner="flood") for _ in range(3)]
    lone = running("b", owner="lone")
    assert sorted(len(lanes.pick([*flood, lone])) for _ in range(2)) == [1, 1]
    assert len(Lanes(10**6).pick([*flood, running("a", rows=2, owner="guided")])) == 3


def test_rows_that_cost_next_to_nothing_are_filled() -> None:
    flood, lone = [running("a", owner="flood") for _ in range(20)], running("a", owner="lone")
    assert len(Lanes(10**6, lambda pixels: 8).pick([*flood, lone])) == 8
    three = flood[:3]
    assert len(Lanes(10**6, lambda pixels: 4).pick([*three, lone])) == 3  # two of the three, and the one
    assert len(Lanes(lambda pixels: 4, lambda pixels: 8).pick([*flood, lone])) == 4


def test_an_owner_that_is_always_behind_is_served() -> None:
    """Others that keep coming with one picture each do not keep the oldest from its rows."""
    old, lanes = [running("a", owner="old") for _ in range(3)], Lanes(lambda pixels: 4)
    for turn in range(5):
        others = [running("a", owner=f"{turn} {number}") for number in range(10)]
        assert any(ticket is old[0] for ticket in lanes.pick([*old, *others]))


def test_a_place_too_few_for_all_goes_to_who_had_least() -> None:
    lanes, tickets = Lanes(lambda pixels: 4), [running("a", owner=owner) for owner in "aaaabbbbcccc"]
    rows = collections.Counter(one.ticket.owner for _ in range(30) for one in lanes.pick(tickets))
    assert rows.total() == 120
    assert max(rows.values()) - min(rows.values()) <= 1


def among(lanes: Lanes, flood: list[Any], lone: Any) -> None:
    """Both have drawn, the flood more than the other; a row takes a third of a brief call."""
    lanes.took(flood[:1], BRIEF / 3)
    lanes.pick([*flood, lone])
    for _ in range(3):
        lanes.pick(flood)


def test_the_other_owners_tickets_step_while_a_flood_waits() -> None:
    lanes, flood = Lanes(lambda pixels: 8), [running("a", owner="flood") for _ in range(20)]
    assert len(lanes.pick(flood)) == 8
    assert not lanes.brief
    among(lanes, flood, lone := running("a", owner="lone"))
    for _ in range(4):
        assert lanes.pick([*flood, lone]) == [lone]
        assert lanes.waiting == {"flood"}
        assert not lanes.brief
    assert len(lanes.pick(flood)) == 3  # the other may come back at any time
    assert lanes.brief
    assert not lanes.waiting


def test_a_flood_that_waits_fills_what_costs_next_to_nothing() -> None:
    lanes, flood = Lanes(lambda pixels: 16, lambda pixels: 8), [running("a", owner="flood") for _ in range(20)]
    pair = [running("a", rows=2, owner="pair") for _ in range(2)]
    among(lanes, flood, pair[0])
    assert lanes.pick([*flood, *pair]) == [*pair, *flood[:4]]


def test_a_flood_in_other_lanes_waits_too() -> None:
    lanes = Lanes(lambda pixels: 8)
    flood = [running(lane, denoiser=lane, owner="flood") for lane in "ab" for _ in range(20)]
    among(lanes, flood, lone := running("c", denoiser="c", owner="lone"))
    assert [lanes.pick([*flood, lone]) for _ in range(3)] == [[lone]] * 3
    assert {lanes.pick(flood)[0].lane[1] for _ in range(2 * TURNS_PER_DENOISER)} == {"a", "b"}
