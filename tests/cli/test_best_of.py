"""`laur generate --best-of`: the scorer's choice is kept, and its seed alone is recorded."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny import tiny_folder
from laur.cli.best import Contest
from laur.pipeline import scoring
from laur.pipeline.scoring import base
from laur.render.metadata import read


class Brightness(scoring.Scorer):
    """Likes bright pictures."""

    name = key = "brightness"

    def __init__(self, device: torch.device) -> None:
        del device

    def scores(self, pixels: np.ndarray, prompts: list[str]) -> np.ndarray:
        return np.repeat(pixels.mean((1, 2, 3), dtype=np.float64)[:, None], len(prompts), 1)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    scoring.register("brightness")(Brightness)
    yield
    base._MAKERS.pop("brightness")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("best") / "tiny")


def brightness(path: Path) -> float:
    with Image.open(path) as image:
        return float(np.asarray(image.convert("RGB")).mean(dtype=np.float64))


SETTINGS = ("--steps", 1, "--size", "32", "-a", "none", "--sampler", "lcm", "--dtype", "float32")


def test_the_best_of_all_seeds_is_kept_and_made_again_without_a_scorer(laur: Callable[..., Any], model: Path) -> None:
    alone = laur("generate", "a fox", "-m", model, "-s", 5, "-n", 6, "--out", "alone/", *SETTINGS)
    assert alone.code == 0, alone.err
    bright = {read(path).recipe.seed: brightness(path) for path in (alone.folder / "alone").iterdir()}
    made = laur(
        "generate", "a fox", "-m", model, "-s", 5, "--best-of", 6, "--scorer", "brightness", "--out", "x.png", *SETTINGS
    )
    assert made.code == 0, made.err
    best = max(bright, key=bright.__getitem__)
    recipe = read(made.folder / "x.png").recipe
    assert recipe is not None
    assert recipe.seed == best
    assert f"kept seed {best} ({bright[best]:.3f}) of 6" in made.err
    assert made.out.split() == ["x.png"]
    base._MAKERS.pop("brightness")
    again = laur("reproduce", "x.png")
    scoring.register("brightness")(Brightness)
    assert again.code == 0
    assert "identical" in again.out


def test_several_pictures_are_each_the_best_of_their_own_seeds(laur: Callable[..., Any], model: Path) -> None:
    made = laur(
        *("generate", "a fox", "-m", model, "-s", 5, "-n", 2, "--best-of", 3, "--scorer", "brightness"),
        *("--out", "x.png", "--json", *SETTINGS),
    )
    assert made.code == 0, made.err
    images = json.loads(made.out)["images"]
    assert [image["path"] for image in images] == ["x-1.png", "x-2.png"]
    assert [sorted(image["scores"]) for image in images] == [["5", "6", "7"], ["10", "8", "9"]]
    for image in images:
        best = max(image["scores"].values())
        assert image["scores"][str(image["seed"])] == best == pytest.approx(brightness(Path(image["path"])), abs=1e-5)
    assert made.files == ["x-1.png", "x-2.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--best-of", 4], "--best-of needs a scorer that knows what"),
        (["--best-of", 4, "--scorer", "nobody"], "there is no scorer 'nobody'; known are brightness, mini"),
        (["--scorer", "brightness"], "say how many with --best-of"),
        (["--best-of", 0], "not from 1 to 1000"),
        (["--best-of", 4, "--scorer", "."], "holds no CLIP model that can be read"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_drawn(
    laur: Callable[..., Any], model: Path, arguments: list[object], says: str
) -> None:
    made = laur("generate", "a fox", "-m", model, "--out", "x.png", *SETTINGS, *arguments)
    assert made.code == 2
    assert says in made.err
    assert made.files == []


def test_a_group_has_a_winner_though_one_of_it_failed() -> None:
    class Fixed(Brightness):
        def scores(self, pixels: np.ndarray, prompts: list[str]) -> np.ndarray:
            return np.array([[float(pixels.max())]])

    class Picture:
        def __init__(self, seed: int, score: int) -> None:
            self.pixels = np.full((2, 2, 3), score, np.uint8)
            self.recipe = type("R", (), {"seed": seed, "prompt": "x"})

    contest = Contest(Fixed(torch.device("cpu")), 3)
    pictures = [Picture(seed, score) for seed, score in enumerate((7, 9, 9, 1, 2, 3))]
    assert contest.enter(2, 2, pictures[2]) is None  # type: ignore[arg-type]
    assert contest.enter(4, 4, pictures[4]) is None  # type: ignore[arg-type]
    assert contest.drop(0) is None
    winner = contest.enter(1, 1, pictures[1])  # type: ignore[arg-type]
    assert winner is not None
    assert (winner.ticket, winner.scores) == (1, {1: 9.0, 2: 9.0})  # of equals the lower seed
    assert contest.drop(3) is None
    assert contest.drop(5).scores == {4: 2.0}  # type: ignore[union-attr]
