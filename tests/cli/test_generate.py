"""A prompt becomes files."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laur.cli.wish import make_recipe
from laur.core.recipe import Recipe
from laur.render.metadata import read

SMALL = ["--size", "64x64", "--steps", "1"]


def picture(path: str) -> tuple[str | None, tuple[int, int]]:
    """Format and size of a file that is read to its end."""
    with Image.open(path) as image:
        image.load()
        return image.format, image.size


def test_standard_output_is_the_path_and_nothing_else(laur) -> None:
    outcome = laur("generate", "a red fox", "--seed", 7, *SMALL, "--out", "sub/fox.png")
    assert outcome.code == 0
    assert outcome.out == "sub/fox.png\n"
    assert "64x64, 1 step, lcm, seed 7" in outcome.err
    assert "s sampling" in outcome.err
    assert "s in all" in outcome.err
    assert outcome.files == ["sub", "sub/fox.png"]


def test_a_name_of_its_own_overwrites_nothing(laur) -> None:
    first = laur("generate", "a red fox", "--seed", 7, *SMALL)
    second = laur("generate", "a red fox", "--seed", 7, *SMALL)
    assert first.out == "a-red-fox-7.png\n"
    assert second.out == "a-red-fox-7-2.png\n"
    assert Path("a-red-fox-7.png").read_bytes() == Path("a-red-fox-7-2.png").read_bytes()


@pytest.mark.parametrize(("width", "height"), [(300, 200), (17, 16), (63, 129)])
def test_a_picture_has_exactly_the_size_that_was_asked_for(laur, width, height) -> None:
    outcome = laur("generate", "a red fox", "--size", f"{width}x{height}", "--steps", 1, "--out", "fox.png")
    assert outcome.code == 0, outcome.err
    assert picture("fox.png") == ("PNG", (width, height))


def test_picture_i_has_seed_plus_i_and_is_that_picture(laur) -> None:
    outcome = laur(
        "generate", "a red fox", "-n", 3, "--seed", 7, *SMALL, "--dtype", "float32", "--out", "many/", "--json"
    )
    images = json.loads(outcome.out)["images"]
    assert [image["seed"] for image in images] == [7, 8, 9]
    alone = laur("generate", "a red fox", "--seed", 9, *SMALL, "--dtype", "float32", "--out", "nine.png", "--json")
    assert json.loads(alone.out)["images"][0]["recipe_hash"] == images[2]["recipe_hash"]
    difference = read(Path("nine.png")).pixels.astype(int) - read(Path(images[2]["path"])).pixels
    assert np.abs(difference).max() <= 1


def test_json_is_one_object_and_nothing_else(laur) -> None:
    outcome = laur("generate", "a red fox", "--negative", "blue", "--seed", 7, *SMALL, "--json", "--grid", "--strip")
    assert outcome.code == 0
    assert outcome.out.count("\n") == 1
    values = json.loads(outcome.out)
    assert list(values) == ["images", "seconds", "warnings", "sheets"]
    [image] = values["images"]
    assert image == {"path": "a-red-fox-7.png", "seed": 7, "recipe_hash": read(Path("a-red-fox-7.png")).recipe.hash}
    assert values["seconds"] > 0
    assert "negative prompt has no effect" in values["warnings"][0]
    assert [sheet["kind"] for sheet in values["sheets"]] == ["strip", "grid"]
    assert "laur: warning: the negative prompt has no effect" in outcome.err


@pytest.mark.parametrize(
    ("format", "suffix", "name"),
    [
        ("png", "png", "PNG"),
        ("jpeg", "jpg", "JPEG"),
        ("webp", "webp", "WEBP"),
        ("avif", "avif", "AVIF"),
        ("tiff", "tif", "TIFF"),
    ],
)
def test_every_format(laur, format, suffix, name) -> None:
    outcome = laur("generate", "a red fox", "--seed", 7, *SMALL, "--format", format)
    assert outcome.out == f"a-red-fox-7.{suffix}\n"
    assert picture(outcome.out.strip()) == (name, (64, 64))


def test_no_metadata_leaves_nothing_but_pixels(laur) -> None:
    laur("generate", "a red fox", "--seed", 7, *SMALL, "--no-metadata", "--out", "fox.png")
    found = read(Path("fox.png"))
    assert (found.recipe, found.parameters, found.source_type) == (None, None, None)
    assert b"fox" not in Path("fox.png").read_bytes()


def test_the_sheets_lie_beside_the_picture(laur) -> None:
    outcome = laur(
        "generate", "a red fox", "--seed", 7, "--size", "64x64", "--out", "fox.webp", "--attention", "--strip"
    )
    assert outcome.out.splitlines() == ["fox.webp", "fox-strip.webp", "fox-attention.webp"]
    # four steps and the finished picture side by side; the picture and three words
    assert picture("fox-strip.webp")[1][0] > 5 * 64
    assert picture("fox-attention.webp")[1][0] > 4 * 64


def test_a_recipe_is_drawn_again_and_changed(laur) -> None:
    laur("generate", "a red fox", "--seed", 7, *SMALL, "--out", "fox.png")
    Path("fox.json").write_text(read(Path("fox.png")).recipe.to_json())
    for source in ("fox.json", "fox.png"):
        again = laur("generate", "--recipe", source, "--out", "again.png", "--json")
        assert again.code == 0, again.err
        assert read(Path("again.png")).pixels_sha256 == read(Path("fox.png")).pixels_sha256
    laur("generate", "--recipe", "fox.png", "--seed", 8, "--steps", 2, "--out", "other.png")
    changed = read(Path("other.png")).recipe
    assert (changed.prompt, changed.seed, changed.steps) == ("a red fox", 8, 2)


def test_options_reach_the_recipe(laur) -> None:
    options = "--negative blue --guidance 1.5 --sampler tcd --eta 0.2 --original-steps 40 --clip-skip 2 --seed 7"
    laur(
        "generate",
        "a fox",
        *options.split(),
        *SMALL,
        "--guidance-rescale",
        0.3,
        "-a",
        "lcm-lora-mini:0.8",
        "-o",
        "f.png",
    )
    recipe = read(Path("f.png")).recipe
    assert (recipe.negative_prompt, recipe.guidance, recipe.sampler, recipe.eta) == ("blue", 1.5, "tcd", 0.2)
    assert (recipe.original_inference_steps, recipe.clip_skip, recipe.guidance_rescale) == (40, 2, 0.3)
    assert [(ref.name, ref.weight) for ref in recipe.adapters] == [("lcm-lora-mini", 0.8)]


def test_custom_timesteps_and_no_adapter(laur) -> None:
    laur(
        "generate", "a fox", "--timesteps", "999,499", "-a", "none", "--sampler", "euler", "--size", "64", "-o", "f.png"
    )
    recipe = read(Path("f.png")).recipe
    assert (recipe.timesteps, recipe.steps, recipe.adapters, recipe.width, recipe.height) == ((999, 499), 2, (), 64, 64)


def test_a_full_disk_is_one_line(laur) -> None:
    outcome = laur("generate", "a red fox", *SMALL, "--out", "/dev/full")
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.splitlines()[-1].startswith("laur: cannot write '/dev/full': the disk is full")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system with room for a few kilobytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_keeps_no_part_of_a_picture(laur, small_disk: Path) -> None:
    outcome = laur("generate", "a red fox", "--steps", 1, "--out", small_disk / "fox.tiff")
    assert outcome.code == 2
    assert "the disk is full" in outcome.err.splitlines()[-1]
    assert list(small_disk.iterdir()) == []


def test_preview_without_a_terminal_says_so(laur) -> None:
    outcome = laur("generate", "a red fox", *SMALL, "--preview")
    assert outcome.code == 0
    assert "--preview needs a terminal" in outcome.err


def test_a_picture_that_fails_is_said_once_and_named_among_several(laur) -> None:
    from laur.optimize import ADAPTERS, BaseAdapter

    class Poison(BaseAdapter):
        def on_x0(self, step, total, x0):
            return x0 * float("nan")

    ADAPTERS.register("poison", Poison)
    wish = ["a red fox", "--size", "64", "--steps", "2", "-a", "lcm-lora-mini", "-a", "poison"]
    alone = laur("generate", *wish)
    assert (alone.code, alone.out, len(alone.err.splitlines())) == (1, "", 1)
    assert "NaN or infinity" in alone.err
    both = laur("generate", *wish, "-n", 2, "--json")
    assert (both.code, both.out) == (1, "")
    assert [line.split(":")[0:3] for line in both.err.splitlines()[:2]] == [
        ["laur", " warning", f" picture {number} failed"] for number in (1, 2)
    ]
    assert both.err.splitlines()[-1] == "laur: 2 of 2 pictures failed"
    assert both.files == []


def test_another_style_takes_the_place_of_the_recipes_own() -> None:
    base = Recipe(prompt="a fox", style="ink", adapters=[{"name": "lcm"}, {"name": "ink", "weight": 0.5}])
    changed = make_recipe({"style": "oil"}, [], base)
    assert (changed.style, [ref.name for ref in changed.adapters or ()]) == ("oil", ["lcm"])
    assert make_recipe({"steps": 3}, [], base).adapters == base.adapters
