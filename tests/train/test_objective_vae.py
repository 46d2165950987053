"""Autoencoders against their formulas, and what holds them to the denoiser that is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_set import tiny_set

from laur.core.errors import TrainingError
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.pipeline.loading.load import LoadedCheckpoint
from laur.train.batch import Batch
from laur.train.conditions import plain_prompt
from laur.train.data.reader import TrainingSet
from laur.train.data.sources.own import seed_of
from laur.train.draws import Draws
from laur.train.evaluate.prompts import places_held_out
from laur.train.objectives import vae
from laur.train.objectives.drawn import DrawnLatents

CPU = torch.device("cpu")


def test_an_autoencoder_learns_its_decoder_alone(sd1: LoadedCheckpoint) -> None:
    objective = vae.build(vae.VaeOptions(crop=32, latent_noise=0.0), sd1, CPU)
    learning = {name.split(".")[0] for name, p in objective.model.named_parameters() if p.requires_grad}
    assert learning == {"decoder", "post_quant_conv"}
    keys = torch.arange(2)
    pictures = Draws(3, keys).uniform("picture", (3, 64, 64)) * 2 - 1
    optimiser = torch.optim.AdamW([p for p in objective.model.parameters() if p.requires_grad], lr=1e-3)
    losses: list[float] = []
    for _ in range(12):
        loss = objective.loss(Batch(0, keys, pictures, None), Draws(4, keys))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.8 * losses[0]
    parts = loss.parts
    total = parts["absolute"] + 2 * parts["squared"] + parts["gradient"]
    assert float(total) == pytest.approx(losses[-1], rel=1e-5)


def drift(sd1: LoadedCheckpoint, keep: float) -> tuple[float, float]:
    """How far an encoder's latents move in a few updates, and the loss's part that says so."""
    objective = vae.build(vae.VaeOptions(crop=0, latent_noise=0.0, encoder=True, keep=keep, pull=0.0), sd1, CPU)
    keys = torch.arange(2)
    pictures = Draws(3, keys).uniform("picture", (3, 64, 64)) * 2 - 1
    optimiser = torch.optim.AdamW(objective.model.parameters(), lr=1e-3)
    said = 0.0
    for _ in range(6):
        loss = objective.loss(Batch(0, keys, pictures, None), Draws(4, keys))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        said = float(loss.parts.get("keep", 0.0))
    with torch.no_grad():
        now, former = (model.encode(pictures).latent_dist.mode() for model in (objective.model, sd1.vae()))  # type: ignore[operator]
    return float(((now - former) * sd1.info.latent_scale).square().mean()), said


def test_an_encoder_that_learns_on_keeps_its_latents(sd1: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    free, nothing = drift(sd1, 0.0)
    loose, _ = drift(sd1, 100.0)  # random weights give no picture back, so hardly a latent is held
    monkeypatch.setattr(vae, "HALF_HELD", 100.0)
    kept, said = drift(sd1, 100.0)
    assert nothing == 0.0
    assert 0 < kept < 0.3 * free
    assert kept < 0.5 * loose
    assert 0 < said < free
    for options in ({"keep": 1.0}, {"keep": 1.0, "encoder": True, "scratch": True}):
        with pytest.raises(TrainingError, match="keep holds the latents of an encoder that learns on"):
            vae.build(vae.VaeOptions(**options), sd1, CPU)  # type: ignore[arg-type]


def test_mixtures_of_latents_are_decoded_as_mixtures(sd1: LoadedCheckpoint) -> None:
    """The part against its formula written out; and it falls when it is learned."""
    options = vae.VaeOptions(crop=0, latent_noise=0.0, encoder=True, linear=2.0, pull=0.0, gradient=0.0)
    objective = vae.build(options, sd1, CPU)
    keys = torch.arange(16)
    pictures = Draws(3, keys).uniform("picture", (3, 32, 32)) * 2 - 1
    draws = Draws(4, keys)
    loss = objective.loss(Batch(0, keys, pictures, None), draws)
    kinds, expected = set(), torch.zeros(())
    model: Any = objective.model
    for row in range(16):
        one, mine = pictures[row][None], draws[row : row + 1]
        colour = 2 * mine.uniform("colour to mix with", (3,)) - 1
        grey = bool(mine.uniform("grey to mix with") < 0.5)
        itself = bool(mine.uniform("what to mix with") < 0.4)
        flat = (colour[:, :1].expand(1, 3) if grey else colour)[:, :, None, None].expand_as(one)
        other = one.flip((2, 3)) if itself else flat
        part = float(mine.uniform("part of the other"))
        latents = [model.encode(x).latent_dist.mode() for x in (one, other)]
        decoded = model.decode((1 - part) * latents[0] + part * latents[1]).sample
        error = decoded - ((1 - part) * one + part * other)
        expected = expected + (error.abs().mean() + 2 * error.square().mean()) / 16
        kinds.add((grey, itself))
    assert len(kinds) >= 3
    assert float(loss.parts["linear"]) == pytest.approx(float(expected.detach()), rel=1e-4)
    said = loss.parts
    total = said["absolute"] + 2 * said["squared"] + 2 * said["linear"]
    assert float(loss.total.detach()) == pytest.approx(float(total), rel=1e-5)
    optimiser = torch.optim.AdamW(objective.model.parameters(), lr=1e-3)
    for _ in range(15):
        optimiser.zero_grad()
        loss = objective.loss(Batch(0, keys, pictures, None), draws)
        loss.total.backward()
        optimiser.step()
    assert float(loss.parts["linear"]) < 0.9 * float(expected.detach())
    decoder = vae.build(vae.VaeOptions(crop=0, linear=2.0), sd1, CPU)  # later runs keep what was won
    assert float(decoder.loss(Batch(0, keys, pictures, None), draws).parts["linear"]) == pytest.approx(
        float(expected.detach()), rel=1e-4
    )
    with pytest.raises(TrainingError, match=r"objective\.linear changes what latents mean"):
        vae.build(vae.VaeOptions(linear=1.0, encoder=True, keep=1.0), sd1, CPU)


def test_a_picture_that_did_not_come_back_holds_its_latent_less(sd1: LoadedCheckpoint) -> None:
    objective = vae.build(vae.VaeOptions(crop=0, latent_noise=0.0, encoder=True, keep=1.0), sd1, CPU)
    former = sd1.vae()
    keys = torch.arange(3)
    pictures = Draws(3, keys).uniform("picture", (3, 64, 64)) * torch.tensor([2.0, 0.5, 0.02])[:, None, None, None]
    with torch.no_grad():
        for parameter in objective.model.encoder.parameters():  # type: ignore[union-attr]
            parameter.add_(0.01)
        before, now = (m.encode(pictures).latent_dist.mode() for m in (former, objective.model))  # type: ignore[operator]
        errors = (former.decode(before).sample - pictures).square().mean((1, 2, 3))  # type: ignore[operator]
        moved = ((now - before) * sd1.info.latent_scale).square().mean((1, 2, 3))
        expected = (moved / (1 + (errors / 0.008) ** 2)).mean()
        said = objective.loss(Batch(0, keys, pictures, None), Draws(4, keys)).parts["keep"]
    assert float(said) == pytest.approx(float(expected), rel=1e-3)
    assert float(expected) < 0.5 * float(moved.mean())


def test_the_decoder_meets_former_latents_every_other_time(
    sd1: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = vae.VaeOptions(crop=0, latent_noise=0.0, encoder=True, keep=1.0, former=str(sd1.info.path))
    objective = vae.build(options, sd1, CPU)
    assert objective.inputs == {"objective.former": sd1.info.key}
    keys = torch.arange(12)
    pictures = Draws(3, keys).uniform("picture", (3, 64, 64)) * 2 - 1
    given: list[torch.Tensor] = []
    decode = objective.model.decode
    monkeypatch.setattr(objective.model, "decode", lambda latents: given.append(latents.detach()) or decode(latents))
    with torch.no_grad():
        for parameter in objective.model.encoder.parameters():  # type: ignore[union-attr]
            parameter.add_(0.01)
        former, now = (m.encode(pictures).latent_dist.mode() for m in (sd1.vae(), objective.model))  # type: ignore[operator]
    for half, expected in ((100.0, {"former", "now"}), (1e-9, {"now"})):
        monkeypatch.setattr(vae, "HALF_HELD", half)
        given.clear()
        objective.loss(Batch(0, keys, pictures, None), Draws(4, keys))
        near = [
            "former" if torch.allclose(row, old, atol=1e-4) else "now" if torch.allclose(row, new, atol=1e-4) else "?"
            for row, old, new in zip(given[-1], former, now, strict=True)
        ]
        assert set(near) == expected
    with pytest.raises(TrainingError, match=r"set objective.keep too"):
        vae.build(vae.VaeOptions(encoder=True, former="mini"), sd1, CPU)


def test_drawn_latents_are_what_the_engine_decodes(sd1: LoadedCheckpoint, tmp_path: Path) -> None:
    words = tiny_set(tmp_path / "words", Path(str(sd1.info.path)))
    drawn = DrawnLatents(sd1.info, words, 3)
    data = TrainingSet.open(words)
    places = np.array([0, 2, 4])
    recipes = [
        Recipe(prompt=plain_prompt(captions[-1]), seed=seed_of(name))
        for name, captions in zip(data.names(places), data.captions(places), strict=True)
    ]
    engine = Engine(str(sd1.info.path))
    pictures = engine.pictures(recipes)
    keys = torch.arange(40)
    latents = drawn.batch(Draws(1, keys), 0)
    different = latents.unique(dim=0)
    assert len(drawn) == len(different) == 3  # forty draws come across each
    scaled = (different - sd1.info.latent_shift) * sd1.info.latent_scale
    decoded = engine.library.decoder(sd1.info.key).decode(scaled).numpy().astype(int)
    for picture in pictures:
        assert min(np.abs(one - picture.pixels.astype(int)).max() for one in decoded) <= 1
    cut = drawn.batch(Draws(1, keys), 4)
    assert cut.shape == (40, 4, 4, 4)
    for piece, whole in zip(cut, latents, strict=True):
        windows = whole.unfold(1, 4, 1).unfold(2, 4, 1)  # (C, tops, lefts, 4, 4)
        assert (windows == piece[:, None, None]).all(-1).all(-1).all(0).any()


def test_drawn_latents_leave_out_what_the_run_leaves_out(sd1: LoadedCheckpoint, tmp_path: Path) -> None:
    words = tiny_set(tmp_path / "words", Path(str(sd1.info.path)))
    data = TrainingSet.open(words)
    out = places_held_out(data)
    assert 0 < out.sum() < len(data)
    options = vae.VaeOptions(encoder=True, keep=1.0, drawn=str(words), drawings=100)
    objective = vae.build(options, sd1, CPU)
    assert objective._drawn is not None
    asked: list[int] = []
    some = objective._drawn._some
    objective._drawn._some = lambda engine, places, first: asked.extend(places) or some(engine, places, first)  # type: ignore[method-assign]
    objective.held_out = True
    assert len(objective._drawn) == len(data) - out.sum()
    objective.complete()
    assert asked == np.flatnonzero(~out).tolist()


def test_the_decoder_is_held_to_how_it_decoded_drawn_latents(sd1: LoadedCheckpoint, tmp_path: Path) -> None:
    words = tiny_set(tmp_path / "words", Path(str(sd1.info.path)))
    options = vae.VaeOptions(crop=0, latent_noise=0.0, encoder=True, keep=1.0, pull=0.0)
    plain = vae.build(options, sd1, CPU)
    held = vae.build(dataclasses.replace(options, drawn=str(words), drawings=4), sd1, CPU)
    assert held.inputs == {"objective.drawn": f"{TrainingSet.open(words).info.key} 4"}
    keys = torch.arange(3)
    pictures = Draws(3, keys).uniform("picture", (3, 64, 64)) * 2 - 1
    with torch.no_grad():
        for objective in (plain, held):
            next(objective.model.decoder.parameters()).add_(0.02)  # type: ignore[union-attr]
        first, both = (o.loss(Batch(0, keys, pictures, None), Draws(4, keys)).parts for o in (plain, held))
        latents = DrawnLatents(sd1.info, words, 4).batch(Draws(4, keys), 0)
        before, now = (m.decode(latents).sample for m in (sd1.vae(), held.model))  # type: ignore[operator]
    error = now - before.clamp(-1, 1)
    for name, expected in (("absolute", error.abs().mean()), ("squared", error.square().mean())):
        assert float(expected) > 1e-3
        assert float(both[name]) == pytest.approx((float(first[name]) + float(expected)) / 2, rel=1e-3)
    wide = torch.nn.functional.pad(pictures, (0, 32, 0, 64))  # neither square nor as large as what is drawn
    assert float(held.loss(Batch(0, keys, wide, None), Draws(4, keys)).total.detach()) > 0
    with pytest.raises(TrainingError, match=r"how it drew before; set objective.keep too"):
        vae.build(vae.VaeOptions(drawn=str(words)), sd1, CPU)
    with pytest.raises(TrainingError, match="drawings is 0; at least 1"):
        vae.build(dataclasses.replace(options, drawn=str(words), drawings=0), sd1, CPU)
