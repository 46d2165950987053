"""Sources that render a set anew: captions call the style, pictures are the teacher's."""

from __future__ import annotations

import numpy as np
from PIL import Image

from laur.style.teachers import teacher
from laur.train.data.picture import Drawn
from laur.train.data.sources.restyled import Repainted, called


class _Record:
    name, style, licence, origin = "0 noto/ball", "noto", "CC0", "test"

    def draw(self, size: int) -> Drawn:
        picture = np.full((96, 96, 3), 255, np.uint8)
        picture[20:76, 20:76] = (200, 30, 40)
        return Drawn(Image.fromarray(picture), ("ball, noto", "red ball, noto", "a ball"))


def test_captions_call_the_style_and_one_still_names_the_former() -> None:
    words = called(("ball, noto", "noto emoji of a ball", "red ball, noto"), "noto", "oil painting")
    assert words == ("ball, oil painting", "red ball, oil painting", "ball, noto, oil painting")
    assert called(("a ball",), "", "ink") == ("a ball, ink",)
    assert called((), "noto", "ink") == ()
    assert called(("ball, noto", "a ball"), "noto", "") == ("ball, noto", "a ball")


def test_a_record_is_painted_at_the_set_s_size_the_same_each_time() -> None:
    record = Repainted(_Record(), teacher("noir"), "film noir")
    first, again = record.draw(64), record.draw(64)
    assert first.image.size == (64, 64)
    assert np.ptp(np.asarray(first.image).astype(int), axis=2).max() == 0
    np.testing.assert_array_equal(np.asarray(first.image), np.asarray(again.image))
    assert first.captions[0] == "ball, film noir"
    assert (record.style, record.licence, record.name) == ("noir", "CC0", "0 noto/ball")
