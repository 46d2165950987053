"""Turn-taking, on tickets that are nothing but a lane and a size."""

from types import SimpleNamespace
from typing import Any

import torch

from laur.pipeline.lanes import Lanes


def running(lane: str, rows: int = 1, side: int = 32) -> Any:
    return SimpleNamespace(lane=lane, latent=torch.zeros(4, side, side), stage=SimpleNamespace(rows=[None] * rows))


def test_only_tickets_of_one_lane_step_together() -> None:
    active = [running("a"), running("b"), running("a")]
    assert Lanes(10**6).pick(active) == [active[0], active[2]]


def test_lanes_take_turns_however_full_one_is() -> None:
    flood, lone = [running("flood") for _ in range(50)], running("lone")
    lanes = Lanes(10**6)
    served = [lanes.pick([*flood, lone])[0].lane for _ in range(6)]
    assert served == ["flood", "lone"] * 3


def test_a_new_lane_is_served_next() -> None:
    lanes, old = Lanes(10**6), [running("a"), running("b")]
    lanes.pick(old)
    lanes.pick(old)
    assert lanes.pick([*old, running("new")])[0].lane == "new"


def test_the_cap_counts_rows_and_pixels() -> None:
    cap = 8 * 32 * 32
    assert len(Lanes(cap).pick([running("a") for _ in range(20)])) == 8
    assert len(Lanes(cap).pick([running("a", rows=2) for _ in range(20)])) == 4
    assert len(Lanes(cap).pick([running("a", side=64) for _ in range(20)])) == 2


def test_one_ticket_always_fits() -> None:
    assert len(Lanes(1).pick([running("a", side=256)])) == 1


def test_nothing_to_do() -> None:
    assert Lanes(1).pick([]) == []
