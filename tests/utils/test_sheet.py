"""Sheets: every picture in its place, whole, and every word inside."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from laur.utils.sheet import LONGEST_LABEL, SheetStyle, contact_sheet, fit, grid, wrap
from laur.utils.strip import step_strip

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(colour, size=(40, 30)):
    return Image.new("RGB", size, colour)


def box(sheet, colour):
    """Left, top, right, bottom of a colour."""
    found = np.argwhere((np.asarray(sheet) == colour).all(-1))
    top, left = found.min(0)
    bottom, right = found.max(0) + 1
    return int(left), int(top), int(right), int(bottom)


def ink(sheet):
    """Where there is neither paper nor pure colour."""
    pixels = np.asarray(sheet).astype(int)
    return (pixels.max(-1) < 200).nonzero()


def test_pictures_stand_in_rows_and_columns():
    sheet = contact_sheet([[plain(RED), plain(GREEN)], [None, plain(BLUE)]])
    assert sheet.size == (8 + 2 * 48, 8 + 2 * 38)
    assert box(sheet, RED) == (8, 8, 48, 38)
    assert box(sheet, GREEN) == (56, 8, 96, 38)
    assert box(sheet, BLUE) == (56, 46, 96, 76)


def test_arrays_and_images_are_alike():
    cell = np.zeros((30, 40, 3), np.uint8)
    assert contact_sheet([[cell]]).tobytes() == contact_sheet([[Image.fromarray(cell)]]).tobytes()


def test_labels_take_room_and_cover_no_picture():
    bare = contact_sheet([[plain(RED), plain(GREEN)]])
    sheet = contact_sheet(
        [[plain(RED), plain(GREEN)]],
        row_labels=["a red fox with a long description"],
        column_labels=["1 step", "2 steps"],
        captions=[["", "seed 7"]],
        title="mini",
    )
    assert sheet.width > bare.width
    assert sheet.height > bare.height
    for colour in (RED, GREEN):
        left, top, right, bottom = box(sheet, colour)
        assert (right - left, bottom - top) == (40, 30)
        assert int((np.asarray(sheet) == colour).all(-1).sum()) == 40 * 30
    rows, columns = ink(sheet)
    assert len(rows) > 100
    assert rows.max() < sheet.height - 1
    assert columns.max() < sheet.width - 1


def test_long_labels_of_short_rows_push_the_next_row_down():
    label = "one two three four five six seven eight nine ten " * 3
    sheet = contact_sheet([[plain(RED)], [plain(BLUE)]], row_labels=[label, ""])
    assert box(sheet, BLUE)[1] - box(sheet, RED)[1] > 100


def test_pictures_of_other_sizes_are_fitted_and_centred():
    sheet = contact_sheet([[plain(RED, (80, 40)), plain(BLUE, (10, 20))]], style=SheetStyle(cell=(40, 40), gap=0))
    assert box(sheet, RED) == (0, 10, 40, 30)
    assert box(sheet, BLUE) == (50, 0, 70, 40)


def test_small_pictures_keep_their_pixels():
    pixels = np.array([[RED, BLUE]], np.uint8)
    large = np.asarray(fit(Image.fromarray(pixels), 8, 8))
    assert (large[:, :4] == RED).all()
    assert (large[:, 4:] == BLUE).all()


@pytest.mark.parametrize(("count", "size"), [(1, (1, 1)), (3, (2, 2)), (4, (2, 2)), (5, (3, 2)), (9, (3, 3))])
def test_a_grid_is_nearly_square(count, size):
    sheet = grid([plain(RED)] * count)
    assert sheet.size == (8 + 48 * size[0], 8 + 38 * size[1])
    assert grid([plain(RED)] * 6, columns=6).height == 46


def test_lines_are_no_wider_than_asked_and_lose_nothing():
    font = ImageFont.load_default(14)
    for text in ["a few words that do not fit", "Donaudampfschifffahrtsgesellschaft of old", "a\nb", "x"]:
        lines = wrap(text, font, 80).lines
        assert all(font.getlength(line) <= 80 for line in lines)
        assert "".join(lines).replace(" ", "") == "".join(text.split())
    assert wrap("", font, 80).height == 0
    assert "".join(wrap("w" * 5000, font, 80).lines) == "w" * (LONGEST_LABEL - 3) + "..."


@pytest.mark.parametrize("title", ["Füchse 狐 🦊", "\t \n", "\x00"])
def test_any_title_can_be_written(title):
    assert contact_sheet([[plain(RED)]], title=title).width == 56


def test_a_sheet_of_nothing_is_a_bug():
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([[None, None]])
    with pytest.raises(ValueError, match="at least one step"):
        step_strip([])


def test_a_strip_shows_each_step_large_and_the_picture_last():
    frames = [np.full((8, 16, 3), colour, np.uint8) for colour in (RED, GREEN)]
    strip = step_strip(frames, final=plain(BLUE, (256, 128)), title="a red fox")
    boxes = [box(strip, colour) for colour in (RED, GREEN, BLUE)]
    assert [(right - left, bottom - top) for left, top, right, bottom in boxes] == [(128, 64)] * 3
    assert boxes[0][0] < boxes[1][0] < boxes[2][0]
    assert ink(strip)[0].max() > boxes[0][3]


def test_many_steps_go_on_in_the_next_row():
    frames = [np.full((8, 8, 3), i, np.uint8) for i in range(10)]
    assert step_strip(frames).height > 2 * 128
    assert step_strip(frames, columns=10).height < 2 * 128
