"""Teachers: every one paints, in its own way, the same way each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from laur.core.errors import NotFoundError
from laur.style.teachers import TEACHERS, code, teacher
from laur.style.teachers.lines import flow_dog
from laur.style.teachers.strokes import Brush, paint
from laur.style.teachers.tools import as_float, fractal, luminance, subject
from laur.style.teachers.wet import kuwahara


@pytest.fixture(scope="module")
def icon() -> NDArray[np.uint8]:
    """A red ball with a white window and a green leaf, on white."""
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((24, 30, 104, 110), fill="#d02828")
    draw.ellipse((52, 52, 72, 72), fill="white")
    draw.polygon([(64, 30), (90, 10), (84, 30)], fill="#30a040")
    return np.asarray(image)


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_changes_the_picture_and_keeps_its_size(icon: NDArray[np.uint8], name: str) -> None:
    painted = TEACHERS[name](icon, 3)
    assert painted.shape == icon.shape and painted.dtype == np.uint8
    assert np.abs(painted.astype(int) - icon).mean() > 4
    assert painted.std() > 15  # something is to be seen
    np.testing.assert_array_equal(painted, TEACHERS[name](icon, 3))


@pytest.mark.parametrize("name", TEACHERS)
def test_the_subject_stays_where_it_is(icon: NDArray[np.uint8], name: str) -> None:
    """The ball's place differs from its surroundings, so that captions still hold."""
    painted = TEACHERS[name](icon, 3).astype(float)
    inside, outside = painted[80:100, 50:78].mean((0, 1)), painted[112:126, 4:14].mean((0, 1))
    assert np.abs(inside - outside).max() > 12


@pytest.mark.parametrize("name", TEACHERS)
def test_a_blank_picture_does_not_break_a_teacher(name: str) -> None:
    blank = np.full((64, 64, 3), 255, np.uint8)
    assert TEACHERS[name](blank, 0).shape == blank.shape


@pytest.mark.parametrize("name", ["cubism", "cyberpunk", "noir", "oil", "science-fiction", "surrealism"])
def test_what_lies_behind_is_the_same_in_every_picture(icon: NDArray[np.uint8], name: str) -> None:
    """Far from the subject, whatever the seed: few steps draw the mean of what moves about."""
    grounds = [TEACHERS[name](icon, seed)[:24, :24].astype(float) for seed in range(4)]
    deviation = np.std(grounds, axis=0).mean()
    assert deviation < 5  # a grain may differ
    assert np.std(grounds[0]) > 2 * deviation  # and there is something


def test_colours_tell_the_styles_apart(icon: NDArray[np.uint8]) -> None:
    def spread(name: str) -> float:
        return float(np.ptp(TEACHERS[name](icon, 0).astype(int), axis=2).mean())

    assert spread("noir") == 0  # grey in every pixel
    assert spread("fauvism") > 60
    dark = {name: float(TEACHERS[name](icon, 0).mean()) for name in ("cyberpunk", "noir", "watercolour", "ink")}
    assert dark["cyberpunk"] < 90 and dark["noir"] < 110
    assert dark["watercolour"] > 150 and dark["ink"] > 110


@pytest.mark.parametrize(("name", "least", "most"), [("noir", 42, 210), ("ink", 45, 222), ("pencil", 54, 222)])
def test_black_and_white_are_those_of_a_print(icon: NDArray[np.uint8], name: str, least: int, most: int) -> None:
    """Beyond them the latents of mini hold other colours between two greys (benchmarks/latent_lines.py)."""
    painted = TEACHERS[name](icon, 0)
    assert least <= painted.min() < least + 25
    assert most - 25 < painted.max() <= most


@pytest.mark.parametrize("name", ["ink", "pencil"])
def test_ink_and_pencil_have_no_colour_but_their_papers(icon: NDArray[np.uint8], name: str) -> None:
    """Every pixel lies on the line from the lead to the paper, both nearly grey."""
    painted = TEACHERS[name](icon, 0).reshape(-1, 3).astype(float)
    lead, paper = painted[painted.sum(1).argmin()], painted[painted.sum(1).argmax()]
    assert np.ptp(lead) < 8 and np.ptp(paper) < 28
    along = np.clip((painted - lead) @ (paper - lead) / ((paper - lead) ** 2).sum(), 0, 1)
    away = np.abs(painted - (lead + along[:, None] * (paper - lead))).max(1)
    assert away.max() < 2  # rounding alone


def test_pixel_art_is_flat_in_every_cell(icon: NDArray[np.uint8]) -> None:
    cells = TEACHERS["pixel-art"](icon, 0).reshape(16, 8, 16, 8, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    assert len(np.unique(cells[:, 0, :, 0].reshape(-1, 3), axis=0)) <= 12


def test_white_inside_a_subject_belongs_to_it(icon: NDArray[np.uint8]) -> None:
    mask = subject(as_float(icon))
    assert mask[62, 62] == 1 and mask[2, 2] == 0


def test_strokes_follow_the_layers_of_the_paper(icon: NDArray[np.uint8]) -> None:
    """A thin brush comes nearer to the reference than a thick one alone (Hertzmann 1998, section 2.1)."""
    image = as_float(icon)

    def error(*radii: int) -> float:
        painted = paint(image, Brush(threshold=0.02, radii=radii), np.random.default_rng(0))
        return float(np.abs(painted - image).mean())

    assert error(8, 4, 2) < 0.7 * error(8)


def test_xdog_darkens_the_dark_side_of_an_edge() -> None:
    step = np.ones((64, 64, 3), np.float32)
    step[:, :32] = 0.3
    drawn = flow_dog(luminance(step), step, sigma=1.5, p=18.0, epsilon=0.6, phi=9.0)
    assert drawn[32, 30] < 0.2 and drawn[32, 33] > 0.95


def test_kuwahara_smooths_within_and_keeps_edges() -> None:
    rng = np.random.default_rng(0)
    step = np.where(np.arange(64)[None, :, None] < 32, 0.2, 0.8) + 0.05 * rng.standard_normal((64, 64, 3))
    smooth = kuwahara(step.astype(np.float32), 5.0, rng)
    assert smooth[10:54, 8:24].std() < 0.5 * step[10:54, 8:24].std()
    assert smooth[:, 38:44].mean() - smooth[:, 20:26].mean() > 0.55


def test_noise_has_its_mean_and_deviation() -> None:
    noise = fractal((100, 80), 30, np.random.default_rng(0))
    assert noise.shape == (100, 80)
    assert abs(float(noise.mean())) < 1e-4 and abs(float(noise.std()) - 1) < 1e-4


def test_an_unknown_teacher_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match=r"known are .*watercolour"):
        teacher("watercolor-pen")


def test_every_teacher_says_what_it_follows() -> None:
    assert all(found.source for found in TEACHERS.values())
    assert len({found.sha256 for found in TEACHERS.values()}) == len(TEACHERS)  # other code, another hash


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("lines", "def pencil(", "# graphite\ndef pencil(", set()),
        ("lines", '"""0 … 1, dark lines as 1."""', '"""Dark lines are 1."""', set()),
        ("lines", '"""Of the pencil\'s lines', '"""Of its lines', set()),
        ("lines", "DIRECTIONS = 8", "DIRECTIONS = 9", {"pencil"}),
        ("lines", "        weights += 2 * weight\n", "    weights += 2 * weight\n", {"ink", "ukiyoe"}),
        (
            "lines",
            "    mask = subject(image)\n    line = ",
            '    """Words."""\n    mask = subject(image)\n    line = ',
            set(),
        ),
        ("tools", "def as_bytes(image: Image)", "def as_bytes(image: Image, /)", set(TEACHERS)),
        ("lines", "half = 9", "half = 7", {"pencil"}),
        (
            "lines",
            "total, weights = sharpened.copy(), 1.0",
            "total, weights = sharpened.copy(), 2.0",
            {"ink", "ukiyoe"},
        ),
        ("tools", "def gradient(values: Field)", "def gradient(values: Field, /)", None),
        ("strokes", "SHIFT = 4", "SHIFT = 5", {"impressionism", "expressionism", "pointillism", "wash", "fauvism"}),
    ],
)
def test_a_teacher_is_another_when_what_it_calls_is(
    file: str, old: str, new: str, changed: set[str] | None, tmp_path: Path
) -> None:
    for path in Path(code.__file__).parent.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text("utf-8"), "utf-8")
    text = (tmp_path / f"{file}.py").read_text("utf-8")
    assert old in text
    (tmp_path / f"{file}.py").write_text(text.replace(old, new), "utf-8")
    found = {name for name, of in TEACHERS.items() if code.sha256(of.module, of.function, tmp_path) != of.sha256}
    if changed is None:
        assert {"cyberpunk", "pencil"} <= found < set(TEACHERS)
    else:
        assert found == {name.replace("_", "-") for name in changed}


@pytest.mark.parametrize("line", ["from laur.style.teachers.tools import blur", "from .tools import blur"])
def test_imports_that_would_be_missed_are_refused(line: str, tmp_path: Path) -> None:
    for path in Path(code.__file__).parent.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text("utf-8"), "utf-8")
    file = tmp_path / "lines.py"
    file.write_text(file.read_text("utf-8").replace("    mask = ", f"    {line}\n    mask = "), "utf-8")
    with pytest.raises(ValueError, match="import it above"):
        code.sha256("lines", "ink", tmp_path)
