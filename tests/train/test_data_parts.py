"""The parts of the data room that need no model: buckets, crops, captions, the canvas, the order of batches."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from laur.core.errors import DataError
from laur.train.data import canvas
from laur.train.data.buckets import LONGEST, bucket_sizes, fit, nearest
from laur.train.data.captions import captions
from laur.train.data.colours import dominant
from laur.train.data.order import Order
from laur.train.data.picture import Skip

CIRCLE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><circle cx="5" cy="5" r="4" fill="{}"/></svg>'


@pytest.mark.parametrize(("size", "step"), [(64, 8), (256, 32), (512, 64), (1024, 128)])
def test_buckets_keep_the_area_and_come_in_pairs(size: int, step: int) -> None:
    sizes = bucket_sizes(size, square=False)
    assert sizes[0] == (size, size)
    assert len(set(sizes)) == len(sizes) > 4
    for height, width in sizes:
        assert height % step == width % step == 0
        assert height * width <= size * size
        assert height * width >= size * size * 0.8
        assert max(height, width) <= LONGEST * min(height, width)
        assert (width, height) in sizes


def test_a_square_source_has_one_bucket() -> None:
    assert bucket_sizes(256, square=True) == ((256, 256),)


@pytest.mark.parametrize(
    ("width", "height"), [(100, 100), (300, 200), (200, 300), (1000, 100), (100, 1000), (640, 480)]
)
def test_the_nearest_bucket_has_the_nearest_aspect_ratio(width: int, height: int) -> None:
    sizes = bucket_sizes(256, square=False)
    found = sizes[nearest(width, height, sizes)]
    off = abs(np.log(found[1] / found[0]) - np.log(width / height))
    assert all(abs(np.log(w / h) - np.log(width / height)) >= off - 1e-12 for h, w in sizes)


def test_a_crop_keeps_the_middle_and_says_where_it_lay() -> None:
    picture = Image.new("RGB", (200, 100), "white")
    ImageDraw.Draw(picture).rectangle((50, 0, 149, 99), fill="red")
    found, crop = fit(picture, (100, 100))
    assert found.size == (100, 100)
    assert crop == (0, 50)
    assert np.asarray(found).reshape(-1, 3).tolist() == [[255, 0, 0]] * 10_000


@pytest.mark.parametrize("size", [(33, 77), (64, 64), (1, 500), (641, 359)])
@pytest.mark.parametrize("target", [(64, 64), (48, 80), (80, 48)])
def test_every_picture_covers_its_bucket(size: tuple[int, int], target: tuple[int, int]) -> None:
    found, (top, left) = fit(Image.new("RGB", size, "navy"), target)
    assert found.size == (target[1], target[0])
    assert min(top, left) == 0
    assert top >= 0 and left >= 0
    assert np.asarray(found).max(axis=(0, 1)).tolist() == [0, 0, 128]  # nothing beside the picture came in


def order(buckets: list[int], batch: int, weights: list[float] | None = None, seed: int = 3) -> Order:
    return Order(np.array(buckets), None if weights is None else np.array(weights), seed, batch)


@pytest.mark.parametrize("batch", [4, 5, 24, 60])
def test_an_epoch_shows_every_picture_once(batch: int) -> None:
    one = order([0] * 24, batch)
    row = np.concatenate([one.indices(update) for update in range(-(-72 // batch))])
    for epoch in range(3):
        assert sorted(row[24 * epoch : 24 * (epoch + 1)].tolist()) == list(range(24))


def test_epochs_differ() -> None:
    one = order([0] * 24, 24)
    assert one.indices(0).tolist() != one.indices(1).tolist()


def test_uneven_buckets_show_every_picture_equally_often() -> None:
    """A lone picture, a bucket smaller than a batch, one that no number of batches fills, and a large one."""
    buckets = [0] + [1] * 3 + [2] * 17 + [3] * 43
    one = order(buckets, 8)
    for period in range(2):
        seen = np.concatenate([one.indices(64 * period + update) for update in range(64)])
        assert np.bincount(seen, minlength=64).tolist() == [8] * 64


def test_turns_of_buckets_are_spread() -> None:
    """Of every quarter of a period each bucket has its part, and which comes when differs from period to period."""
    buckets = [0] * 40 + [1] * 24
    one = order(buckets, 4)
    turns = [buckets[int(one.indices(update)[0])] for update in range(128)]
    for quarter in range(8):
        assert abs(sum(turns[16 * quarter : 16 * (quarter + 1)]) - 6) <= 1
    assert turns[:64] != turns[64:]


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5] * 20])
def test_batches_are_of_one_bucket(weights: list[float] | None) -> None:
    buckets = [0, 1, 1, 2, 2, 2] * 10
    one = order(buckets, 8, weights)
    for update in range(60):
        assert len({buckets[i] for i in one.indices(update)}) == 1


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0] * 8])
@pytest.mark.parametrize("buckets", [[0] * 24, [0] * 3 + [1] * 21])
def test_the_order_is_a_function_of_seed_and_update(buckets: list[int], weights: list[float] | None) -> None:
    forward, backward = order(buckets, 5, weights), order(buckets, 5, weights)
    asked = list(range(60))
    first = {update: forward.indices(update).tolist() for update in asked}
    assert {update: backward.indices(update).tolist() for update in reversed(asked)} == first
    other = order(buckets, 5, weights, seed=4)
    assert [other.indices(update).tolist() for update in asked] != [first[update] for update in asked]


def test_weights_say_how_often() -> None:
    """Weights 1, 3 and 6 in two buckets: so many tenths of the drawings each, none of a fourth with weight 0."""
    one = order([0, 0, 1, 1], 10, [1.0, 3.0, 6.0, 0.0])
    seen = np.bincount(np.concatenate([one.indices(update) for update in range(2000)]), minlength=4) / 20_000
    assert seen[3] == 0
    assert np.abs(seen[:3] - [0.1, 0.3, 0.6]).max() < 0.04  # 4 standard deviations of 2,000 draws of a bucket


@pytest.mark.parametrize("weights", [None, np.array([1.0, 2.0, 5.0, 1.0] * 6)])
def test_what_is_left_out_never_comes(weights: np.ndarray | None) -> None:
    left_out = np.array([False, False, True, True, False, True] * 4)
    one = Order(np.array([0, 1] * 12), weights, 3, 4, left_out)
    seen = np.concatenate([one.indices(update) for update in range(300)])
    assert set(seen.tolist()) == set(np.flatnonzero(~left_out).tolist())
    with pytest.raises(DataError, match=r"all pictures of the set are held out; leave data\.hold_out out"):
        Order(np.array([0, 1]), None, 3, 4, np.array([True, True]))


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no pictures"):
        order([], 4)
    with pytest.raises(DataError, match="no picture to draw"):
        order([0, 0], 4, [0.0, 0.0])


def test_captions_go_from_short_to_long_and_repeat_for_a_key() -> None:
    words = {"name": "Red Fox", "tags": ["animal", "x", "forest"], "style": "fluent flat"}
    found = captions(**words, hues=["orange", "white"], key="a")
    assert found == captions(**words, hues=["orange", "white"], key="a")
    assert found[0] == "red fox, fluent flat"
    assert len(found) == len(set(found)) >= 3
    assert "orange and white" in found[-1]
    assert all(word.strip() != "x" for caption in found for word in caption.split(","))
    assert len({captions(**words, key=str(number)) for number in range(20)}) > 1


def test_a_painted_thing_is_named_with_its_colour() -> None:
    found = captions("owl", [], "game silhouette", paint="teal")
    assert "teal owl, game silhouette" in found
    assert any(caption.endswith("of a teal owl") for caption in found)
    assert not any("teal" in caption for caption in captions("owl", [], "ink", paint="black"))


@pytest.mark.parametrize(("colour", "name"), [("#e02020", "red"), ("#2864dc", "blue"), ("#46a546", "green")])
def test_a_picture_says_its_colour(colour: str, name: str) -> None:
    assert dominant(canvas.on_white(canvas.render_svg(CIRCLE.format(colour), 64))) == [name]


def test_a_white_page_has_no_colour() -> None:
    assert dominant(Image.new("RGB", (64, 64), "white")) == []


def test_svg_is_drawn_at_its_size_with_its_transparency() -> None:
    found = canvas.render_svg(CIRCLE.format("currentColor"), 64)
    assert (found.mode, found.size) == ("RGBA", (64, 64))
    assert found.getpixel((0, 0)) == (0, 0, 0, 0)
    assert found.getpixel((32, 32)) == (17, 17, 17, 255)


@pytest.mark.parametrize("svg", ["", "<svg", "no drawing", "<html/>", '<svg xmlns="http://www.w3.org/2000/svg"><g'])
def test_bad_svg_is_skipped(svg: str) -> None:
    with pytest.raises(Skip, match="cannot be drawn"):
        canvas.render_svg(svg, 64)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_bad_pictures_are_skipped(content: bytes) -> None:
    with pytest.raises(Skip, match="cannot be read"):
        canvas.read_picture(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_that_is_cut_off_is_skipped(kind: str) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, kind)
    with pytest.raises(Skip, match="cannot be read"):
        canvas.read_picture(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def test_pictures_are_turned_upright() -> None:
    picture = Image.new("RGB", (40, 20), "white")
    exif = picture.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    assert canvas.read_picture(buffer.getvalue()).size == (20, 40)


@pytest.mark.parametrize("colour", [(0, 0, 0, 0), (255, 255, 255, 255)])
def test_blank_pictures_are_skipped(colour: tuple[int, ...]) -> None:
    with pytest.raises(Skip, match="blank"):
        canvas.centred(Image.new("RGBA", (64, 64), colour), 64)


def test_a_trimmed_picture_fills_the_canvas_but_for_a_margin() -> None:
    picture = Image.new("RGBA", (300, 300))
    ImageDraw.Draw(picture).rectangle((10, 20, 59, 69), fill="black")
    found = np.asarray(canvas.centred(picture, 64, trim=True).convert("L"))
    rows, columns = np.nonzero(found < 128)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 61, 2, 61)


def test_pixel_art_grows_by_whole_numbers() -> None:
    """A checkerboard of 20 pixels becomes one of 60 on a canvas of 64, each pixel nine equal ones."""
    board = (np.indices((20, 20)).sum(0) % 2 * 255).astype(np.uint8)
    found = canvas.centred(Image.fromarray(board).convert("RGBA"), 64, pixel_art=True)
    middle = np.asarray(found.convert("L"))[2:62, 2:62]
    assert np.array_equal(middle, board.repeat(3, 0).repeat(3, 1))
