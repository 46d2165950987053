"""Noise: torch's CPU stream in diffusers' order, one per picture and stage, readable in any order."""

import torch

from laur.core.noise import Noise

SHAPE = (4, 3, 5)


def test_draws_are_torchs_cpu_stream_in_order() -> None:
    generator = torch.Generator("cpu").manual_seed(7)
    noise = Noise(7, SHAPE)
    for index in range(4):
        assert torch.equal(noise.draw(0, index), torch.randn((1, *SHAPE), generator=generator)[0])


def test_a_draw_is_the_same_whenever_it_is_asked_for() -> None:
    late, early = Noise(7, SHAPE), Noise(7, SHAPE)
    third = late.draw(0, 3)
    assert torch.equal(third, [early.draw(0, index) for index in range(4)][3])
    assert torch.equal(third, late.draw(0, 3))


def test_stages_have_streams_of_their_own() -> None:
    noise, fresh = Noise(7, SHAPE), Noise(7, SHAPE)
    noise.draw(0, 5)
    assert torch.equal(noise.draw(1, 0), fresh.draw(1, 0))
    first = [noise.draw(stage, 0) for stage in range(3)]
    assert not any(torch.equal(a, b) for i, a in enumerate(first) for b in first[:i])


def test_large_seeds_are_taken_and_differ() -> None:
    assert not torch.equal(Noise(2**53, SHAPE).draw(0, 0), Noise(2**53 - 1, SHAPE).draw(0, 0))
    assert Noise(2**53, SHAPE).draw(1, 0).isfinite().all()
