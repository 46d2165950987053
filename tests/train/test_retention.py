"""What is kept of style and caption: scores, ratios with intervals, and one small study from end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from laur.core.errors import DataError, NotFoundError
from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline.engine import Engine
from laur.pipeline.scoring import Scorer
from laur.pipeline.scoring.mini import MiniScorer
from laur.train.evaluate import kept
from laur.train.evaluate.kept import Scores, above_others, found_among, ratio, together
from laur.train.evaluate.prompts import Prompt
from laur.train.evaluate.retention import ALONE, BALANCED, BARE, FEW, RetentionWish, all_styles, retention, rows_of
from laur.train.evaluate.style_classifier import StyleClassifier
from laur.train.evaluate.style_scorer import plain, style_scorer

CARD = """words = "dots"
teacher = "pointillism"

[mini]
file = "dots.safetensors"
trigger_words = ["dots"]
weight = 0.5
"""
PROMPTS = [Prompt(text=text, concept=text) for text in ("fox", "tree", "cup", "star", "shoe", "door", "key", "leaf")]


class Brightness(Scorer):
    """Likes bright pictures with long captions."""

    name = key = "brightness"

    def scores(self, pixels, prompts):
        bright = pixels.reshape(len(pixels), -1).mean(1, dtype=np.float32)
        return bright[:, None] * np.array([len(prompt) for prompt in prompts], np.float32)[None]


def test_the_chance_to_be_found_is_that_over_all_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "CHOICES", 3)
    scores = np.array([[0.5, 0.9, 0.1, 0.5, 0.2, 0.3]])
    rivals = [1, 2, 3, 4, 5]
    counted = [all(scores[0, other] < 0.5 for other in pair) for pair in combinations(rivals, 2)]
    assert found_among(scores, [0], [rivals]) == pytest.approx(np.mean(counted))
    assert found_among(scores, [1], [[0, 2, 3, 4, 5]]) == 1
    assert found_among(scores, [2], [[0, 1, 3, 4, 5]]) == 0


def test_a_tie_counts_against_it_and_few_rivals_are_all_taken() -> None:
    assert found_among(np.zeros((1, 4)), [0], [[1, 2, 3]]) == 0
    assert found_among(np.array([[1.0, 0.0]]), [0], [[1]]) == 1


def test_a_caption_lies_so_many_deviations_above_the_others() -> None:
    table = np.array([[2.0, 1.0, -1.0], [5.0, 1.0, -1.0], [0.0, 1.0, -1.0]])
    assert above_others(table, [0, 0, 0], [[1, 2]] * 3) == pytest.approx([2.0, 5.0, 0.0])
    assert above_others(3 * table + 7, [0, 0, 0], [[1, 2]] * 3) == pytest.approx([2.0, 5.0, 0.0])
    assert np.isfinite(above_others(np.ones((1, 3)), [0], [[1, 2]])).all()


def test_a_ratio_and_its_interval_are_of_prompts() -> None:
    random = np.random.default_rng(0)
    alone = random.uniform(0.3, 1.0, 40)
    same = ratio(0.9 * alone, alone, 40)
    assert (same.value, same.low, same.high) == pytest.approx((0.9, 0.9, 0.9))  # what prompts share cancels out
    other = ratio(random.permutation(0.9 * alone), alone, 40)
    assert other.low < other.value < other.high
    tried = ratio(np.repeat(0.9 * alone, 2), np.repeat(alone, 2), 40)
    assert tried.value == pytest.approx(0.9)
    assert ratio(alone, np.zeros(40), 40).value > 1e6  # nothing to keep: a number that nobody takes for one


def test_styles_together_are_their_mean() -> None:
    one, other = (
        Scores(style=np.full(8, value), caption=np.full(8, value / 2), found=np.ones(8)) for value in (0.2, 0.6)
    )
    joined = together({"a": one, "b": other})
    assert joined.style == pytest.approx(np.full(8, 0.4))
    assert joined.caption == pytest.approx(np.full(8, 0.2))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    yield Engine("mini", device="cpu", dtype="bfloat16")


@pytest.fixture(scope="module")
def home(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("retention")
    draw = torch.Generator().manual_seed(2)
    state: dict[str, torch.Tensor] = {}
    for name, layer in engine.library.layers(engine.library.checkpoint("mini").key).items():
        if name.endswith("attn2.to_v"):
            out, inner = layer.weight
            state[f"{name}.lora_A.weight"] = torch.randn(2, inner, generator=draw) * inner**-0.5
            state[f"{name}.lora_B.weight"] = torch.randn(out, 2, generator=draw) * 0.1
    (root / "styles").mkdir()
    save_file(state, root / "styles" / "dots.safetensors")
    (root / "styles" / "dots.toml").write_text(CARD)
    (root / "styles" / "strange.toml").write_text(CARD.replace("pointillism", "crayon"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUR_HOME", str(root))
        yield root


def test_a_study_from_end_to_end(engine: Engine, home: Path, tmp_path: Path) -> None:
    pool = [*PROMPTS, *(Prompt(text="x" * length, concept=f"no. {length}") for length in range(1, 12))]
    wish = RetentionWish(styles=["dots"], prompts=PROMPTS, pool=pool, steps=4, teacher_steps=2, size=(64, 64))
    found = retention(wish, tmp_path, engine, Brightness(), StyleClassifier())
    (one,) = found
    assert set(one.keys) == {ALONE, FEW, BALANCED, BARE}
    assert len({key for keys in one.keys.values() for key in keys}) == 4 * len(PROMPTS)
    names = {row: [ref["name"] for ref in refs] for row, refs in one.adapters.items()}
    assert names == {ALONE: ["dots"], FEW: ["lcm-lora-mini", "dots"], BALANCED: ["lcm-lora-mini", "dots"], BARE: []}
    assert one.adapters[ALONE][0]["weight"] == one.adapters[FEW][1]["weight"] == 0.5
    assert one.adapters[BALANCED][1]["phases"] is not None
    told = one.to_dict()
    few = np.mean(one.scores[FEW].style) / np.mean(one.scores[ALONE].style)
    assert told["kept"][FEW]["style"]["value"] == pytest.approx(few)
    assert set(all_styles(found)) == {FEW, BALANCED}
    assert json.loads(json.dumps(told))["name"] == "dots"
    pictures = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()}
    again = retention(wish, tmp_path, engine, Brightness(), StyleClassifier())  # nothing is drawn twice
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()} == pictures
    assert again[0].to_dict() == told


def test_weights_to_be_tried_take_the_cards_place(engine: Engine, home: Path) -> None:
    ref = AdapterRef(name="dots", weight=0.5, phases=((0.0, 1.5), (0.25, 1.0)))
    wish = RetentionWish(styles=["dots"], prompts=PROMPTS, pool=PROMPTS, refs={"dots": ref})
    rows = rows_of(wish, "dots", engine.library.checkpoint("mini"))
    filled = engine.resolve(Recipe(prompt="fox", seed=1, **rows[FEW])).recipe
    assert [(one.name, one.phases) for one in filled.adapters or ()] == [("lcm-lora-mini", None), ("dots", ref.phases)]
    assert rows[ALONE]["adapters"][0].phases is None


def test_what_cannot_be_measured_is_told_before_drawing(engine: Engine, home: Path, tmp_path: Path) -> None:
    wish = RetentionWish(styles=["strange"], prompts=PROMPTS, pool=PROMPTS)
    with pytest.raises(NotFoundError, match="knows no 'crayon'"):
        retention(wish, tmp_path, engine, Brightness(), StyleClassifier())
    few = RetentionWish(styles=["dots"], prompts=PROMPTS[:3], pool=PROMPTS)
    with pytest.raises(DataError, match="3 prompts are too few"):
        retention(few, tmp_path, engine, Brightness(), StyleClassifier())


def test_captions_without_colours_and_styles() -> None:
    assert plain("jar, sauce, light blue and white, noto emoji", "noto") == "jar, sauce"
    assert plain("lime green jar, fluent flat", "fluent flat") == "jar"
    assert plain("orange", "noto") == "orange"


def test_the_scorer_of_styles_is_another_one_than_that_which_chooses() -> None:
    scorer = style_scorer()
    assert scorer.key != MiniScorer(torch.device("cpu")).key
    gray = np.full((1, 64, 64, 3), 128, np.uint8)
    assert scorer.scores(gray, ["jar", "cat"]).shape == (1, 2)
