import numpy as np
import pytest

from laur.input.image import InputPicture
from laur.input.inpaint import (
    cropped,
    cut_back,
    filled,
    inset,
    inverted,
    masked_part,
    pasted,
    stretched,
)  # fmt: skip


def picture(width, height, seed=0):
    return InputPicture(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def mask(width, height, box):
    pixels = np.zeros((height, width), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return InputPicture(pixels)


def smooth(width, height):
    rows, columns = np.mgrid[0:height, 0:width]
    return InputPicture(np.stack([rows * 255 / height, columns * 255 / width, rows * 0 + 90], 2).astype(np.uint8))


def test_stretching_does_not_mind_proportions():
    assert stretched(picture(40, 20), 24, 24).size == (24, 24)
    same = picture(40, 20)
    assert stretched(same, 40, 20) is same
    assert stretched(mask(40, 20, (0, 0, 20, 20)), 20, 40).pixels[:, 3].min() == 255


@pytest.mark.parametrize(
    ("size", "frame"), [((40, 20), (32, 32)), ((20, 40), (64, 32)), ((7, 5), (64, 48)), ((8, 8), (8, 8))]
)
def test_what_is_set_in_comes_back(size, frame):
    whole = smooth(*size)
    larger = inset(whole, *frame)
    assert larger.size == frame
    back = cut_back(larger.pixels, *size)
    assert back.shape == whole.pixels.shape
    assert np.abs(back.astype(int) - whole.pixels).mean() < 4


def test_edges_continue_around_what_is_set_in():
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[0], pixels[-1] = 250, 10
    found = inset(InputPicture(pixels), 8, 8).pixels
    assert (found[:2] == found[2]).all()
    assert (found[6:] == found[5]).all()


def test_a_hole_takes_the_colours_around_it_and_nothing_else_changes():
    whole = smooth(64, 48)
    hole = mask(64, 48, (24, 16, 40, 32))
    white = whole.pixels.copy()
    white[16:32, 24:40] = 255
    found = filled(InputPicture(white), hole).pixels
    kept = hole.pixels == 0
    np.testing.assert_array_equal(found[kept], whole.pixels[kept])
    assert np.abs(found[~kept].astype(int) - whole.pixels[~kept]).mean() < 25
    assert (filled(whole, mask(64, 48, (0, 0, 64, 48))).pixels == 128).all()


def test_the_masked_part_with_its_proportions_inside_the_picture():
    hole = mask(100, 80, (10, 20, 30, 30))
    assert masked_part(hole, 0, None) == (10, 20, 30, 30)
    assert masked_part(hole, 5, None) == (5, 15, 35, 35)
    assert masked_part(hole, 15, None) == (0, 5, 45, 45)
    assert masked_part(hole, 0, (1, 1)) == (10, 15, 30, 35)
    assert masked_part(hole, 0, (4, 1)) == (0, 20, 40, 30)
    left, top, right, bottom = masked_part(mask(100, 80, (95, 75, 100, 80)), 0, (3, 1))
    assert (right - left, bottom - top, right, bottom) == (15, 5, 100, 80)
    assert masked_part(mask(100, 80, (0, 0, 100, 4)), 0, (1, 1)) == (0, 0, 100, 80)


def test_what_is_pasted_lies_in_the_mask_alone():
    whole, hole = picture(64, 48), mask(64, 48, (20, 10, 44, 30))
    box = masked_part(hole, 4, (32, 32))
    drawn = np.full((32, 32, 3), 7, np.uint8)
    found = pasted(whole, hole, box, drawn, 0.0)
    kept = hole.pixels == 0
    np.testing.assert_array_equal(found[kept], whole.pixels[kept])
    assert (found[~kept] == 7).all()
    soft = pasted(whole, hole, box, drawn, 6.0)
    np.testing.assert_array_equal(soft[kept], whole.pixels[kept])
    assert (soft[~kept] != 7).any()
    assert (soft[20, 32] == 7).all()
    assert cropped(whole, box).size == (box[2] - box[0], box[3] - box[1])
    np.testing.assert_array_equal(inverted(hole).pixels, 255 - hole.pixels)
