"""Half-precision weights packed and restored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laur.models.codec import EXACT, Layout, decode, encode

SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


@given(hnp.arrays(np.uint16, SHAPES))
def test_sixteen_bits_keep_every_half_bit_for_bit(raw):
    """NaN, infinity, -0 and subnormals too."""
    values = raw.view(np.float16)
    assert decode(*encode(values, EXACT)).view(np.uint16).tolist() == raw.tolist()


@pytest.mark.parametrize("bits", [2, 4, 8, 9, 11, 12, 15])
def test_rounding_stays_within_half_a_step_of_each_row(bits):
    values = normal(6, 40) * np.float16(3)
    layout, packed, tops = encode(values, bits)
    restored = decode(layout, packed, tops)
    assert restored.dtype == np.float16
    step = np.abs(values.astype(np.float32)).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    halves = np.spacing(np.abs(values)).astype(np.float32)
    assert (np.abs(restored.astype(np.float32) - values) <= 0.5001 * step + halves).all()


@pytest.mark.parametrize("bits", [8, 11])
def test_what_was_stored_so_before_comes_back_bit_for_bit(bits):
    once = decode(*encode(normal(16, 4, 3, 3), bits))
    assert decode(*encode(once, bits)).tobytes() == once.tobytes()


@given(st.integers(2, EXACT), SHAPES)
def test_zeros_and_any_shape_survive(bits, shape):
    values = np.zeros(shape, np.float16)
    restored = decode(*encode(values, bits))
    assert restored.shape == shape
    assert not restored.any()


def test_rounded_weights_take_the_bits_that_were_asked_for():
    values = normal(64, 1024)
    for bits, most in ((8, 1.0), (11, 11 / 8), (EXACT, 14 / 8)):
        _, packed, _ = encode(values, bits)
        assert len(packed) <= most * values.size


@pytest.mark.parametrize("bits", [1, 17])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(ValueError, match="2 to 16"):
        encode(normal(2, 2), bits)


@pytest.mark.parametrize("bits", [8, 11, EXACT])
def test_damage_is_noticed(bits):
    layout, packed, tops = encode(normal(8, 64), bits)
    with pytest.raises(ValueError, match="damaged"):
        decode(layout, packed[: len(packed) // 3], tops)
    with pytest.raises(ValueError, match="damaged"):
        decode(Layout(bits, layout.shape, (len(packed),) * 3), packed, tops)
    if tops is not None:
        with pytest.raises(ValueError, match="scales"):
            decode(layout, packed, tops[:-1])
