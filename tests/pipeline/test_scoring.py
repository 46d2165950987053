"""Scorers: how they are found, the one that ships, a CLIP folder, and weights in 8 bits."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from helpers.tiny import CONFIGS
from laur.core.errors import CheckpointError, NotFoundError
from laur.pipeline.scoring import base, find_scorer
from laur.pipeline.scoring.compact import restored, squeezed
from laur.pipeline.scoring.mini import MiniScorer, shipped, text_of_mini
from laur.pipeline.scoring.network import SIDE, TEXT, Towers, prepared

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scorer() -> MiniScorer:
    found = find_scorer("mini", CPU)
    assert isinstance(found, MiniScorer)
    return found


def disc(colour: tuple[int, int, int], ground: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    y, x = np.mgrid[:128, :128] - 63.5
    picture = np.empty((128, 128, 3), np.uint8)
    picture[:] = ground
    picture[x * x + y * y < 45**2] = colour
    return picture


class TestMini:
    def test_it_ships_in_a_megabyte_and_says_how_good_it_is(self, scorer: MiniScorer) -> None:
        assert shipped().stat().st_size <= 1_000_000
        held_out = json.loads(scorer.said["held_out"])
        assert held_out["among 32"] > 10 / 32

    def test_colours_are_told_apart(self, scorer: MiniScorer) -> None:
        pixels = np.stack([disc((220, 30, 30)), disc((40, 170, 60)), disc((30, 80, 220))])
        prompts = [f"{colour} circle, fluent flat" for colour in ("red", "green", "blue")]
        scores = scorer.scores(pixels, prompts)
        assert scores.shape == (3, 3)
        assert (scores.argmax(1) == np.arange(3)).all()
        assert (np.abs(scores) <= 1.0001).all()

    def test_company_changes_no_score(self, scorer: MiniScorer) -> None:
        pixels = np.stack([disc((220, 30, 30)), disc((40, 170, 60))])
        together = scorer.scores(pixels, ["a red ball", "a long prompt, " * 40])
        assert together[1, 0] == pytest.approx(scorer.scores(pixels[1:], ["a red ball"])[0, 0], abs=1e-5)
        assert np.isfinite(together).all()

    def test_padding_is_no_part_of_the_mean(self) -> None:
        encode = text_of_mini(CPU)
        short = encode(["a red fox"])
        part = encode._part
        (window,) = part.windower.read("a red fox").windows
        frame = part.windower.frame(window)
        states = part.run([frame], 1)[0][0].float()
        assert torch.allclose(short[0], states[: sum(frame.mask)].mean(0), atol=1e-5)

    def test_damaged_weights_are_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(b"nothing")
        with pytest.raises(CheckpointError, match="the scorer's weights"):
            MiniScorer(CPU, tmp_path / "x.safetensors")
        save_file({"a": torch.zeros(2)}, tmp_path / "y.safetensors")
        with pytest.raises(CheckpointError, match="install lcm-laur again"):
            MiniScorer(CPU, tmp_path / "y.safetensors")


class TestWeights:
    def test_eight_bits_lose_half_a_step_at_most(self) -> None:
        towers = Towers()
        before = towers.state_dict()
        small = squeezed(before)
        after = restored(small)
        assert after.keys() == before.keys()
        towers.load_state_dict(after)
        for name, tensor in before.items():
            if tensor.ndim >= 2:
                assert small[name].dtype is torch.int8
                step = tensor.abs().flatten(1).amax(1) / 127
                gap = (after[name] - tensor).abs().flatten(1).amax(1)
                assert (gap <= 0.5 * step * 1.2 + 1e-8).all(), name

    def test_pictures_of_any_size_come_to_the_same_place(self) -> None:
        small = prepared(torch.full((1, 64, 64, 3), 51, dtype=torch.uint8))
        large = prepared(torch.full((1, 300, 200, 3), 51, dtype=torch.uint8))
        assert small.shape == large.shape == (1, 3, SIDE, SIDE)
        assert torch.allclose(small, large)
        assert float(small.max()) == pytest.approx(-0.6)

    def test_both_towers_end_on_the_sphere(self) -> None:
        towers = Towers().eval()
        with torch.inference_mode():
            image, text = towers.image(torch.rand(2, 3, SIDE, SIDE)), towers.text(torch.rand(2, TEXT))
        assert torch.allclose(image.norm(dim=1), torch.ones(2), atol=1e-5)
        assert torch.allclose(text.norm(dim=1), torch.ones(2), atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 49408},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab=str(CONFIGS / "clip/vocab.json"), merges=str(CONFIGS / "clip/merges.txt")).save_pretrained(
        folder
    )
    return folder


class TestClip:
    def test_scores_are_the_models_own(self, folder: Path) -> None:
        scorer = find_scorer(str(folder), CPU)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        prompts = ["a red fox", "an egg"]
        found = scorer.scores(pixels, prompts)
        model = CLIPModel.from_pretrained(folder).eval()
        tokens = CLIPTokenizer.from_pretrained(folder)(
            prompts, padding="max_length", max_length=77, return_tensors="pt"
        )
        mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
        x = torch.from_numpy(((pixels / 255 - mean) / deviation).transpose(0, 3, 1, 2)).float()
        with torch.inference_mode():
            expected = model(pixel_values=x, **tokens).logits_per_image / model.logit_scale.exp()
        assert found == pytest.approx(expected.numpy(), abs=1e-5)
        assert scorer.scores(pixels[1:2], prompts[1:]) == pytest.approx(found[1:2, 1:], abs=1e-5)

    def test_a_folder_that_holds_none_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="holds no CLIP model"):
            find_scorer(str(tmp_path), CPU)


def test_a_package_brings_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(group: str, name: str) -> list[EntryPoint]:
        values = {"theirs": "laur.pipeline.scoring.mini:MiniScorer", "broken": "no_such_module:Scorer"}
        return [EntryPoint(name, values[name], group)] if group == "laur.scorers" and name in values else []

    monkeypatch.setattr("importlib.metadata.entry_points", offered)
    monkeypatch.setattr(base, "_MAKERS", {})
    assert isinstance(find_scorer("theirs", CPU), MiniScorer)
    with pytest.raises(
        NotFoundError, match=r"'broken' \(no_such_module:Scorer\) cannot be imported: ModuleNotFoundError"
    ):
        find_scorer("broken", CPU)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match=r"known are .*mini"):
        find_scorer("nobody", CPU)
