"""The judge of styles: what ships knows the teachers' pictures, and broken files are told."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from laur.core.errors import CheckpointError, NotFoundError
from laur.pipeline.scoring.compact import restored
from laur.style.cards import shipped as shipped_cards
from laur.style.teachers import teacher
from laur.train.evaluate.style_classifier import NONE, StyleClassifier, apart, shipped, softmax, together
from laur.train.evaluate.style_network import StyleNetwork, moments, prepared


def _icon(side: int = 256) -> np.ndarray:
    """A red disc with a yellow one on it, on white."""
    ys, xs = np.mgrid[:side, :side]
    picture = np.full((side, side, 3), 255, np.uint8)
    for radius, colour in ((90, (220, 60, 50)), (40, (250, 200, 70))):
        picture[(ys - side / 2) ** 2 + (xs - side / 2) ** 2 < radius**2] = colour
    return picture


def test_it_knows_every_style_that_ships() -> None:
    classifier = StyleClassifier()
    assert {card.teacher for card in shipped_cards() if card.teacher} | {NONE} == set(classifier.classes)
    assert shipped().stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["cyberpunk", "noir", "pencil", "wash"])
def test_it_tells_what_the_teachers_paint(name: str) -> None:
    classifier = StyleClassifier()
    painted = np.stack([teacher(name)(_icon(), 3), _icon()])
    chances = classifier.probabilities(painted)
    assert np.allclose(chances.sum(1), 1)
    column = classifier.column(name)
    assert chances[0, column] > 0.5
    assert chances[1, column] < 0.2


def test_what_was_measured_is_in_the_file() -> None:
    said = json.loads(StyleClassifier().said["held_out"])
    assert said["accuracy"] > 0.9
    assert said["calibration_error"] < 0.05
    assert len(said["confusion"]) == len(StyleClassifier().classes)


def test_a_style_it_does_not_know() -> None:
    with pytest.raises(NotFoundError, match="knows no 'crayon'"):
        StyleClassifier().column("crayon")


def test_files_that_are_none(tmp_path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        StyleClassifier(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="its metadata lacks"):
        StyleClassifier(file)
    weights = load_file(shipped())
    save_file({"a": torch.zeros(1)}, file, metadata={"format": "laur-style-classifier/1"})
    with pytest.raises(CheckpointError, match="is of format laur-style-classifier/1"):
        StyleClassifier(file)
    two = {"classes": '["ink", "none"]', "temperature": "1"}
    save_file(weights, file, metadata=two)
    with pytest.raises(CheckpointError, match="cannot be read"):
        StyleClassifier(file)
    for wrong in ({}, {"stem.weight": torch.zeros(1)}, together([{}, {"stem.weight": torch.zeros(1)}])):
        save_file(wrong, file, metadata=two)
        with pytest.raises(CheckpointError, match="cannot be read"):
            StyleClassifier(file)


def test_probabilities_are_the_mean_of_the_networks() -> None:
    classifier = StyleClassifier()
    pictures = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    expected = []
    for weights in apart(load_file(shipped())):
        network = StyleNetwork(len(classifier.classes)).eval()
        network.load_state_dict(restored(weights))
        with torch.no_grad():
            logits = network(prepared(torch.from_numpy(pictures))).double().numpy()
        expected.append(softmax(logits / float(classifier.said["temperature"])))
    assert len(expected) > 1
    assert not np.allclose(expected[0], expected[1], atol=1e-3)
    assert np.allclose(classifier.probabilities(pictures), np.mean(expected, axis=0), atol=1e-6)


def test_networks_lie_in_one_file_and_come_apart() -> None:
    weights = load_file(shipped())
    networks = apart(weights)
    assert together(networks).keys() == weights.keys()
    with pytest.raises(ValueError, match="networks 0, 2"):
        apart({"0.a": torch.zeros(1), "2.a": torch.zeros(1)})


def test_where_something_is_does_not_count() -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for one, other in zip(moments(x), moments(x.roll(3, 2).flip(3)), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert StyleNetwork(5).eval()(torch.zeros(1, 3, 128, 128)).shape == (1, 5)


def test_softmax_of_large_values() -> None:
    assert np.allclose(softmax(np.array([[1000.0, 1000.0, -1000.0]])), [[0.5, 0.5, 0.0]])
