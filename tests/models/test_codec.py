"""Half-precision weights packed and restored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laur.models.codec import EXACT, MOST, Layout, decode, encode

SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


@given(hnp.arrays(np.uint16, SHAPES))
def test_exact_keeps_every_half_bit_for_bit(raw):
    """NaN, infinity, -0 and subnormals too."""
    values = raw.view(np.float16)
    assert decode(*encode(values, EXACT)).view(np.uint16).tolist() == raw.tolist()


@pytest.mark.parametrize("levels", [1, 7, 90, 127, 128, 1023, 2047, 16384])
def test_rounding_stays_within_half_a_step_of_each_row(levels):
    values = normal(6, 40) * np.float16(3)
    layout, packed, tops = encode(values, levels)
    restored = decode(layout, packed, tops)
    assert restored.dtype == np.float16
    step = np.abs(values.astype(np.float32)).max(axis=1, keepdims=True) / levels
    halves = np.spacing(np.abs(values)).astype(np.float32)
    assert (np.abs(restored.astype(np.float32) - values) <= 0.5001 * step + halves).all()


@pytest.mark.parametrize("levels", [90, 127, 1023])
def test_what_was_stored_so_before_comes_back_bit_for_bit(levels):
    once = decode(*encode(normal(16, 4, 3, 3), levels))
    assert decode(*encode(once, levels)).tobytes() == once.tobytes()


@given(st.integers(EXACT, MOST), SHAPES)
def test_zeros_and_any_shape_survive(levels, shape):
    values = np.zeros(shape, np.float16)
    restored = decode(*encode(values, levels))
    assert restored.shape == shape
    assert not restored.any()


def test_fewer_levels_take_fewer_bytes():
    values = normal(64, 1024)
    for levels, most in ((90, 7.5 / 8), (127, 1.0), (1023, 11 / 8), (EXACT, 14 / 8)):
        _, packed, _ = encode(values, levels)
        assert len(packed) <= most * values.size


@pytest.mark.parametrize("levels", [-1, 16385])
def test_other_numbers_of_levels_are_refused(levels):
    with pytest.raises(ValueError, match="give 1 to 16384"):
        encode(normal(2, 2), levels)


@pytest.mark.parametrize("levels", [127, 1023, EXACT])
def test_damage_is_noticed(levels):
    layout, packed, tops = encode(normal(8, 64), levels)
    with pytest.raises(ValueError, match="damaged"):
        decode(layout, packed[: len(packed) // 3], tops)
    with pytest.raises(ValueError, match="damaged"):
        decode(Layout(levels, layout.shape, (len(packed),) * 3), packed, tops)
    if tops is not None:
        with pytest.raises(ValueError, match="scales"):
            decode(layout, packed, tops[:-1])
