"""From a picture on the command line, and made again from the file alone."""

import json
from pathlib import Path

import pytest
from PIL import Image

from laur.render.metadata import read

SMALL = ["--size", "64x64", "--steps", "2", "--seed", "7"]


@pytest.fixture
def cat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUR_HOME", str(tmp_path / "home"))
    Image.new("RGB", (96, 64), (200, 40, 40)).save(tmp_path / "cat.png")
    mask = Image.new("L", (96, 64), 0)
    mask.paste(255, (0, 0, 48, 64))
    mask.save(tmp_path / "mask.png")
    return tmp_path / "cat.png"


def test_a_picture_is_kept_and_found_again(laur, cat: Path) -> None:
    asked = ["--image", "cat.png", "--mask", "mask.png", "--strength", "0.6"]
    made = laur("generate", "a fox", *SMALL, *asked, "--out", "fox.png")
    assert (made.code, made.out) == (0, "fox.png\n")
    found = read(Path("fox.png"))
    assert found.recipe is not None
    assert (found.recipe.strength, found.recipe.mask_blur, found.recipe.paste_back) == (0.6, 4.0, True)
    assert found.parsed["Denoising strength"] == "0.6"
    kept = {f"sha256:{path.stem}" for path in Path("home/inputs").iterdir()}
    assert kept == {found.recipe.image, found.recipe.mask}
    assert tuple(found.pixels[32, 60]) == (200, 40, 40)

    assert laur("reproduce", "fox.png").out.startswith("identical")
    for path in Path("home/inputs").iterdir():
        path.unlink()
    missing = laur("reproduce", "fox.png")
    assert missing.code == 2
    assert f"missing: image {found.recipe.image[:17]}, mask sha256:" in missing.err
    again = laur("reproduce", "fox.png", "--image", "cat.png", "--mask", "mask.png")
    assert again.out.startswith("identical")
    wrong = laur("reproduce", "fox.png", "--image", "mask.png", "--mask", "mask.png")
    assert wrong.code == 2
    assert "the one given (--anyway takes that)" in wrong.err


def test_without_metadata_no_copy_is_kept(laur, cat: Path) -> None:
    made = laur("generate", "a fox", *SMALL, "--image", "cat.png", "--no-metadata", "--json", "--out", "fox.png")
    assert made.code == 0
    assert json.loads(made.out)["images"]
    assert not Path("home/inputs").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--image", "dog.png"], "there is no picture 'dog.png'; check the path"),
        (["--image", "."], "is a folder"),
        (["--mask", "mask.png"], "a mask says what of a picture is drawn anew, and there is none"),
        (["--image", "cat.png", "--strength", "1.5"], "strength is 1.5; it must be from 0 to 1"),
        (["--image", "cat.png", "--strength", "0.4"], "strength 0.4 leaves none of 2 steps to draw; use at least 3"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(laur, cat: Path, options: list[str], says: str) -> None:
    made = laur("generate", "a fox", *SMALL, *options)
    assert made.code == 2
    assert says in made.err
    assert made.err.count("\n") == 1
