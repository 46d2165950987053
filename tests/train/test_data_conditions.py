"""From a set's captions to what the network is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pictures import pictures
from torch import Tensor

from helpers.tiny import tiny_folder
from laur.core.errors import DataError
from laur.pipeline.device import choose
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.train.conditions import Conditioner, PlainText, longest_that_fits, plain_prompt
from laur.train.data.maker import Wish
from laur.train.data.order import Order
from laur.train.data.prepare import prepare
from laur.train.data.reader import TrainingSet
from laur.train.data.sources.folder import Folder
from laur.train.draws import Draws
from laur.train.feed import Feed

CPU = torch.device("cpu")
COUNT = 12


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    return load(str(tiny_folder("sd1", tmp_path_factory.mktemp("sd1") / "sd1")))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    return load(str(tiny_folder("sdxl", tmp_path_factory.mktemp("sdxl") / "sdxl")))


def made(loaded: LoadedCheckpoint, folder: Path, count: int, **settings: Any) -> TrainingSet:
    source = Folder(pictures(folder / "pictures", count, settings.pop("sides", (64, 64))))
    return prepare(source, folder / "set", loaded, Wish(size=64, **settings), place=choose("cpu", "float32"))


@pytest.fixture(scope="module")
def data(sd1: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return made(sd1, tmp_path_factory.mktemp("data"), COUNT)


@pytest.fixture(scope="module")
def wide(sdxl: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return made(sdxl, tmp_path_factory.mktemp("wide"), 3, sides=(110, 80))


def draws(rows: int = COUNT, seed: int = 7, start: int = 0) -> Draws:
    return Draws(seed, torch.arange(start, start + rows), CPU)


ALL = np.arange(COUNT)
FEW = np.arange(3)


def test_a_caption_is_encoded_as_the_engine_would(sd1: LoadedCheckpoint, data: TrainingSet) -> None:
    found = Conditioner(sd1, data, 0.0, CPU).conditions(ALL, draws())
    assert found.pooled is None and found.size_ids is None
    text = PlainText(sd1, CPU)
    for row, (caption,) in enumerate(data.captions(ALL)):
        assert torch.equal(found.context[row], text(caption)[0])
    assert not torch.equal(found.context[0], found.context[1])


def test_captions_are_dropped_by_sample_at_the_rate_asked_for(sd1: LoadedCheckpoint, data: TrainingSet) -> None:
    conditioner = Conditioner(sd1, data, 0.3, CPU)
    whole = Conditioner(sd1, data, 0.0, CPU)
    dropped = 0
    for round_ in range(25):
        some = draws(start=round_ * COUNT)
        found, told = conditioner.conditions(ALL, some), whole.conditions(ALL, some)
        empty = [torch.equal(row, conditioner.empty.context[0]) for row in found.context]
        assert all(torch.equal(found.context[i], told.context[i]) for i in range(COUNT) if not empty[i])
        dropped += sum(empty)
    assert 0.2 < dropped / (25 * COUNT) < 0.4  # 300 draws: 3.8 standard deviations
    assert conditioner.conditions(ALL, draws()).context.equal(conditioner.conditions(ALL, draws()).context)


def test_nothing_and_everything_dropped(sd1: LoadedCheckpoint, data: TrainingSet) -> None:
    none = Conditioner(sd1, data, 1.0, CPU)
    found = none.conditions(ALL, draws()).context
    assert torch.equal(found, none.empty.context.expand_as(found))


def test_every_caption_of_a_picture_comes_up(sd1: LoadedCheckpoint, data: TrainingSet) -> None:
    three = ("short", "a longer one", "the longest of them all")
    text = PlainText(sd1, CPU)
    known: list[Tensor] = [text(caption)[0] for caption in three]

    class Three(TrainingSet):
        def captions(self, indices: Any) -> list[tuple[str, ...]]:
            return [three] * len(indices)

    conditioner = Conditioner(sd1, Three(data.folder, data.info), 0.0, CPU)
    seen = [0, 0, 0]
    for round_ in range(10):
        for row in conditioner.conditions(ALL, draws(start=round_ * COUNT)).context:
            seen[next(i for i, one in enumerate(known) if torch.equal(one, row))] += 1
    assert min(seen) > 20  # of 120, a third each: 3.9 standard deviations


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_stored_text_states_are_those_computed(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """To half precision; and none are computed while they are there."""
    loaded: LoadedCheckpoint = request.getfixturevalue(family)
    plain: TrainingSet = request.getfixturevalue("data" if family == "sd1" else "wide")
    sides = (64, 64) if family == "sd1" else (110, 80)
    stored = Conditioner(loaded, made(loaded, tmp_path, 3, sides=sides, text_states=True), 0.2, CPU)
    computed = Conditioner(loaded, plain, 0.2, CPU)
    stored._text = None  # type: ignore[assignment]
    one, other = stored.conditions(FEW, draws(3)), computed.conditions(FEW, draws(3))
    torch.testing.assert_close(one.context, other.context, atol=4e-3, rtol=2e-3)
    assert (one.pooled is None) == (other.pooled is None) == (family == "sd1")
    if one.pooled is not None and other.pooled is not None:
        torch.testing.assert_close(one.pooled, other.pooled, atol=4e-3, rtol=2e-3)


def test_sdxl_is_told_sizes_and_crops(sdxl: LoadedCheckpoint, wide: TrainingSet) -> None:
    """Original height and width, the crop's top and left, the bucket's height and width: diffusers' order."""
    found = Conditioner(sdxl, wide, 0.0, CPU).conditions(FEW, draws(3))
    height, width = wide.info.buckets[int(wide.bucket[0])]
    scale = max(width / 110, height / 80)
    top, left = (round(80 * scale) - height) // 2, (round(110 * scale) - width) // 2
    assert found.size_ids is not None
    assert found.size_ids.tolist() == [[80, 110, top, left, height, width]] * 3
    assert found.pooled is not None and found.pooled.shape[0] == 3


def test_a_dropped_sdxl_caption_is_as_its_guidance_has_it(sdxl: LoadedCheckpoint, wide: TrainingSet) -> None:
    """Zeros where the checkpoint says so; sizes stay."""
    conditioner = Conditioner(sdxl, wide, 1.0, CPU)
    found = conditioner.conditions(FEW, draws(3))
    zeros = sdxl.info.zeros_for_empty_prompt
    assert zeros == (not bool(found.context.any()))
    assert found.size_ids is not None and found.size_ids[0, :2].tolist() == [80, 110]


def test_another_models_latents_are_refused(sd1: LoadedCheckpoint, sdxl: LoadedCheckpoint, data: TrainingSet) -> None:
    with pytest.raises(
        DataError, match=r"made by .*sd1's autoencoder, which is not that of .*sdxl; prepare the set with"
    ):
        Conditioner(sdxl, data, 0.1, CPU)


def test_captions_mean_their_words(sd1: LoadedCheckpoint) -> None:
    """Brackets and BREAK weigh and cut prompts, not captions."""
    text = PlainText(sd1, CPU)
    assert plain_prompt("a (round) [thing] \\ BREAK") == "a \\(round\\) \\[thing\\] \\\\ break"
    assert not torch.equal(text("an (egg:1.5)")[0], text("an egg")[0])
    assert text("a BREAK b")[0].shape == text("a b")[0].shape


def test_a_long_caption_fills_one_window(sd1: LoadedCheckpoint) -> None:
    text = PlainText(sd1, CPU)
    words = [f"word{number}" for number in range(300)]
    found = text(" ".join(words))[0]
    assert found.shape == text("a")[0].shape
    assert torch.equal(found, text(" ".join(words[:200]))[0])
    for one in ("x1" * 500, "画" * 500):  # one word: some scripts have no spaces
        assert text(one)[0].shape == found.shape
        assert torch.equal(text(one)[0], text(one[:400])[0])


@pytest.mark.parametrize(
    ("caption", "most", "left"),
    [
        ("a b c", 5, "a b c"),
        ("a  b\nc", 3, "a b"),
        ("abc d", 3, "abc"),
        ("abcdef g", 4, "abcd"),
        ("abc", 0, ""),
        ("", 0, ""),
    ],
)
def test_captions_are_cut_between_words_if_they_can_be(caption: str, most: int, left: str) -> None:
    assert longest_that_fits(caption, lambda text: len(text) <= most) == left


def test_a_batch_is_the_same_in_parts(sd1: LoadedCheckpoint, data: TrainingSet) -> None:
    feed = Feed(data, Order(data.bucket, None, 3, 6), Conditioner(sd1, data, 0.5, CPU), 3, CPU)
    whole, _ = feed.batch(5, slice(0, 6))
    parts = [feed.batch(5, slice(i, i + 2))[0] for i in (0, 2, 4)]
    assert torch.equal(torch.cat([part.latents for part in parts]), whole.latents)
    assert torch.equal(torch.cat([part.conditions.context for part in parts]), whole.conditions.context)
    assert sum((part.names for part in parts), ()) == whole.names


def test_pictures_that_are_not_kept_are_missed_at_once(sd1: LoadedCheckpoint, data: TrainingSet) -> None:
    with pytest.raises(DataError, match="keeps no pictures, which this task needs; prepare it with --pixels"):
        Feed(data, Order(data.bucket, None, 3, 6), None, 3, CPU)
