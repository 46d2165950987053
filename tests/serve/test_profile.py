"""How many pictures a denoiser call should have: measured on a device whose speed is known."""

from random import Random
from types import SimpleNamespace

import pytest

from laur.core.errors import ResourceError
from laur.pipeline.lanes import Lanes
from laur.serve.worker.profile import LONGEST, Profile, measure, sides_for


class Device:
    """An engine of one lane; a call takes `seconds(rows, pixels)` by its own clock."""

    def __init__(self, seconds, largest=10**9):
        self.seconds, self.largest, self.now = seconds, largest, 0.0
        self.active = []

    def clock(self):
        return self.now

    def resolve(self, recipe):
        if recipe.width > self.largest:
            raise ResourceError("too large")
        shape = (4, recipe.height // 8, recipe.width // 8)
        return SimpleNamespace(plan=SimpleNamespace(latent_shape=shape), recipe=recipe)

    def submit(self, plan, recipe):
        self.active.append(plan)
        return plan

    def cancel(self, ticket):
        self.active.remove(ticket)

    def step(self):
        if self.active:
            _, height, width = self.active[0].latent_shape
            self.now += self.seconds(len(self.active), height * width)


def caps(device, *sides):
    profile = measure(device, sides, clock=device.clock)
    assert device.active == []
    return {pixels: rows for pixels, rows, _ in profile.caps}


def test_rows_that_cost_nothing_more_are_taken_together():
    assert caps(Device(lambda rows, pixels: 0.03), 256) == {32 * 32: 32}


def test_rows_that_cost_as_much_as_one_by_one_are_not():
    assert caps(Device(lambda rows, pixels: 0.05 * rows), 256) == {32 * 32: 1}


def test_each_size_has_its_own_cap():
    device = Device(lambda rows, pixels: 0.01 + rows * pixels * 2e-5)
    found = caps(device, *sides_for(256))
    assert list(found) == [16 * 16, 32 * 32, 64 * 64]
    assert found[16 * 16] > found[32 * 32] >= found[64 * 64]


def test_nobody_waits_long_for_the_next_admission():
    found = caps(Device(lambda rows, pixels: 0.45 + 0.06 * rows), 512)
    assert found == {64 * 64: 16}
    assert 0.45 + 0.06 * 16 <= LONGEST < 0.45 + 0.06 * 32


@pytest.mark.parametrize("seed", range(20))
def test_timings_that_scatter_come_to_nearly_the_same(seed):
    """Two cores: 7.5 pictures a second one by one, 11.5 in large batches; every timing is up to a tenth too long."""
    random = Random(seed)
    device = Device(lambda rows, pixels: (0.045 + 0.087 * rows) * random.uniform(1.0, 1.1))
    assert set(caps(device, 128).values()) <= {4, 8, 16}


@pytest.mark.parametrize("disturbed", range(2, 40, 3))
def test_what_disturbs_some_timings_does_not_decide(disturbed):
    """Twice as long for a while: a size that was timed then is timed again."""
    calls = iter(range(10_000))

    def seconds(rows, pixels):
        return (0.045 + 0.087 * rows) * (2 if disturbed <= next(calls) < disturbed + 3 else 1)

    assert set(caps(Device(seconds), 128).values()) <= {4, 8}


def test_smaller_pictures_have_no_smaller_calls():
    """Here a call of small pictures takes as long for each; larger ones are better drawn together."""
    device = Device(lambda rows, pixels: 0.05 * rows if pixels < 1000 else 0.4 + 0.01 * rows)
    assert caps(device, 128, 256) == {16 * 16: 32, 32 * 32: 32}


def test_what_does_not_fit_is_left_out_but_something_must():
    assert list(caps(Device(lambda rows, pixels: 0.1, largest=300), 128, 256, 512)) == [16 * 16, 32 * 32]
    with pytest.raises(ResourceError):
        measure(Device(lambda rows, pixels: 0.1, largest=64), [128])


def test_between_and_beyond_measured_sizes_rows_go_by_pixels():
    profile = Profile(((256, 16, 8), (1024, 4, 2), (4096, 1, 1)))
    assert [profile.rows(pixels) for pixels in (64, 256, 512, 1024, 2048, 4096, 10**6)] == [32, 16, 8, 4, 2, 1, 1]


def test_rows_that_take_hardly_longer_than_one_are_known():
    profile = measure(device := Device(lambda rows, pixels: 0.1 + 0.01 * rows), [256], clock=device.clock)
    assert profile.caps == ((32 * 32, 32, 2),)
    assert [Profile(((256, 16, 8), (1024, 4, 1))).free(pixels) for pixels in (256, 512, 1024, 4096)] == [8, 4, 1, 1]


def test_lanes_take_the_measured_cap():
    lanes = Lanes(Profile(((256, 5, 1), (1024, 2, 1))).rows)

    def lane(name, side):
        latent = SimpleNamespace(shape=(4, side, side))
        known = {"stage": SimpleNamespace(rows=[0]), "finished": False, "ticket": SimpleNamespace(owner=None)}
        return [SimpleNamespace(lane=("b", "", name), latent=latent, **known) for _ in range(9)]

    small, large = lane("small", 16), lane("large", 32)
    assert {len(lanes.pick(small)), len(lanes.pick(large))} == {5, 2}


def test_it_is_kept_and_a_damaged_one_is_measured_anew(tmp_path):
    path = tmp_path / "deep" / "p.json"
    assert Profile.read(path) is None
    profile = Profile(((256, 16, 8), (1024, 4, 1)))
    profile.save(path)
    assert Profile.read(path) == profile
    for text in ("", "{}", "[]", "[[0, 1, 1]]", "[[1]]", "[[256, 16]]", '[["a", 1]]'):
        path.write_text(text)
        assert Profile.read(path) is None
