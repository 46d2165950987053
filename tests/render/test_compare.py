"""What `laur reproduce` says of two pictures."""

import io
import math

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from test_picture_files import picture

from laur.render.compare import Likeness, judge, psnr
from laur.render.metadata import read
from laur.render.registry import formats


def test_psnr_is_ten_log_of_the_mean_square():
    black = np.zeros((300, 700, 3), np.uint8)
    assert psnr(black, black) == math.inf
    assert psnr(black, black + 255) == 0.0
    assert psnr(black, black + 16) == pytest.approx(20 * math.log10(255 / 16))
    one = black.copy()
    one[299, 699, 2] = 255
    assert psnr(one, black) == psnr(black, one) == pytest.approx(10 * math.log10(black.size))


def test_psnr_takes_one_shape_and_uint8():
    with pytest.raises(ValueError, match="one shape"):
        psnr(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="float64"):
        psnr(np.zeros((2, 2)), np.zeros((2, 2)))


@pytest.mark.parametrize("format", formats())
def test_the_same_drawing_is_identical_in_every_format(format):
    made = picture()
    verdict = judge(read(made.encode(format)), made.pixels)
    assert verdict.likeness is Likeness.IDENTICAL
    assert verdict.line.startswith("identical")
    assert verdict.exit_code == 0


@pytest.mark.parametrize("format", formats())
def test_other_arithmetic_is_close(format):
    made = picture()
    noise = np.random.default_rng(0).integers(-3, 4, made.pixels.shape)
    drawn = np.clip(made.pixels + noise, 0, 255).astype(np.uint8)
    verdict = judge(read(made.encode(format)), drawn)
    assert verdict.likeness is Likeness.CLOSE
    assert verdict.line.startswith("close: PSNR ")
    assert 30 < verdict.psnr < 60
    assert verdict.exit_code == 0


def test_another_picture_or_size_is_different():
    made = picture()
    found = read(made.encode())
    verdict = judge(found, made.pixels[::-1, ::-1].copy())
    assert (verdict.likeness, verdict.exit_code) == (Likeness.DIFFERENT, 1)
    verdict = judge(found, made.pixels[:, :32])
    assert verdict.line == "different: the file holds 64x48 pixels, the picture drawn again 32x48"
    assert verdict.exit_code == 1


def test_a_file_edited_since_is_told_from_another_drawing():
    made = picture()
    edited = made.pixels.copy()
    edited[:24] = 0
    info = PngImagePlugin.PngInfo()
    info.add_text("laur", Image.open(io.BytesIO(made.encode())).info["laur"])
    buffer = io.BytesIO()
    Image.fromarray(edited).save(buffer, "PNG", pnginfo=info)
    verdict = judge(read(buffer.getvalue()), made.pixels)
    assert verdict.likeness is Likeness.DIFFERENT
    assert "it equals what was drawn at first, so the file was changed since" in verdict.line
