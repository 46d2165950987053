"""Pictures that the model draws itself: kept with the noise they began with, and learned from with an accelerator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_set import tiny_set

from helpers.tiny import tiny_folder
from laur.cli.app import run
from laur.core.errors import DataError
from laur.core.noise import Noise
from laur.core.recipe import Recipe
from laur.pipeline.device import choose
from laur.pipeline.engine import Engine
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.style.teachers import teacher
from laur.train.batch import Batch, Conditions
from laur.train.conditions import plain_prompt
from laur.train.data.maker import Wish
from laur.train.data.order import Order
from laur.train.data.prepare import prepare
from laur.train.data.reader import TrainingSet
from laur.train.data.sources import own
from laur.train.data.sources.prepared import Prepared
from laur.train.data.sources.restyled import Restyled
from laur.train.draws import Draws
from laur.train.feed import Feed
from laur.train.objectives import export, lcm, style
from laur.train.objectives.lcf import merge
from laur.train.objectives.lora import GROUPS, Lora
from laur.train.objectives.networks import Diffusion, predict

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("own") / "sd1")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedCheckpoint:
    return load(str(folder))


@pytest.fixture(scope="module")
def words(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("words") / "set", folder)


@pytest.fixture(scope="module")
def drawn(folder: Path, words: Path, loaded: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    source = own.Own(words, str(folder), size=64, limit=3)
    return prepare(
        source, tmp_path_factory.mktemp("drawn") / "set", loaded, Wish(size=64, pixels=True), place=choose("cpu")
    )


def test_a_set_of_own_pictures_is_what_the_model_draws_of_its_captions(folder: Path, drawn: TrainingSet) -> None:
    places = np.arange(3)
    names = drawn.names(places)
    assert names == ("red.png", "blue.png", "teal.png")
    assert len({own.seed_of(name) for name in names}) == 3
    engine = Engine(str(folder))
    for place, (caption,) in zip(places, drawn.captions(places), strict=True):
        prompt = caption.replace("(", r"\(").replace(")", r"\)")
        recipe = Recipe(prompt=prompt, seed=own.seed_of(names[place]), width=64, height=64)
        expected = engine.pictures([recipe])[0].pixels
        kept = ((drawn.pixels(np.array([place]))[0].permute(1, 2, 0).numpy() + 1) * 127.5).round()
        assert np.abs(kept - np.asarray(expected, np.float32)).max() <= 1  # in a batch, and rounded to eight bits


def test_steps_are_part_of_what_a_set_is(folder: Path, words: Path) -> None:
    plain, two = own.Own(words, str(folder), size=64, limit=1), own.Own(words, str(folder), size=64, limit=1, steps=2)
    assert "steps" not in plain.describe()
    assert two.describe() == {**plain.describe(), "steps": 2}
    [picture] = two.records(0, 1)
    recipe = Recipe(prompt=plain_prompt(picture.caption), seed=own.seed_of(picture.name), width=64, height=64, steps=2)
    assert np.array_equal(picture.pixels, np.asarray(Engine(str(folder)).pictures([recipe])[0].pixels))


def test_a_teacher_draws_guided_and_without_the_few_step_adapter(
    folder: Path, words: Path, loaded: LoadedCheckpoint, tmp_path: Path
) -> None:
    source = own.Own(words, str(folder), size=64, limit=1, steps=3, guidance=5.0)
    assert source.describe() == {**own.Own(words, str(folder), size=64, limit=1, steps=3).describe(), "guidance": 5.0}
    [picture] = source.records(0, 1)
    how = {"width": 64, "height": 64, "steps": 3, "guidance": 5.0, "adapters": ()}
    recipe = Recipe(prompt=plain_prompt(picture.caption), seed=own.seed_of(picture.name), **how)
    assert np.array_equal(picture.pixels, np.asarray(Engine(str(folder)).pictures([recipe])[0].pixels))
    data = prepare(source, tmp_path / "set", loaded, Wish(size=64), place=choose("cpu"))
    order = Order(data.bucket, None, 0, 1)
    feed = Feed(data, order, Told(), 0, CPU, drawn_by=loaded.info.key, paths_of=(5.0, 5.0))  # type: ignore[arg-type]
    batch, _ = feed.batch(0, slice(0, 1))
    assert batch.guidance == 5.0
    assert batch.noise is not None
    assert torch.equal(batch.noise[0], Noise(own.seed_of(picture.name), (4, 8, 8)).draw(0, 0))


@pytest.mark.parametrize("guidance", [1.0, 0.0, -3.0, 101.0, float("nan")])
def test_no_teacher_draws_with_such_guidance(words: Path, folder: Path, guidance: float) -> None:
    with pytest.raises(DataError, match=r"guidance is .*; a teacher's lies above 1 and at most at 100"):
        own.Own(words, str(folder), guidance=guidance)


def test_pictures_drawn_in_few_steps_or_painted_over_end_no_path(
    drawn: TrainingSet, loaded: LoadedCheckpoint, words: Path, folder: Path, tmp_path: Path
) -> None:
    guided = own.Own(words, str(folder), size=64, limit=1, steps=1, guidance=5.0)
    painted = prepare(
        Restyled(guided, teacher("noir"), "noir", seed=0), tmp_path / "set", loaded, Wish(size=64), place=choose("cpu")
    )
    for data in (drawn, painted):
        order = Order(data.bucket, None, 0, 1)
        Feed(data, order, Told(), 0, CPU, drawn_by=loaded.info.key)  # type: ignore[arg-type]
        with pytest.raises(
            DataError, match="are not where a teacher's paths end; `laur data prepare own --guidance G`"
        ):
            Feed(data, order, Told(), 0, CPU, drawn_by=loaded.info.key, paths_of=(1.0, 9.0))  # type: ignore[arg-type]


def test_a_set_that_another_guidance_drew_is_refused_in_one_line(
    words: Path, folder: Path, loaded: LoadedCheckpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = own.Own(words, str(folder), size=64, limit=1, steps=1, guidance=7.5)
    data = prepare(source, tmp_path / "set", loaded, Wish(size=64), place=choose("cpu")).folder
    command = ["train", "lcm-lora", "--model", str(folder), "--data", str(data), "--out", str(tmp_path / "run")]
    options = ["--device", "cpu", "--batch", "1", "--updates", "1", "--set", "objective.rank=2"]
    assert run([*command, *options, "--set", "objective.ends=0.5"]) == 2
    told = capfd.readouterr().err
    assert (
        f"{data} was drawn with guidance 7.5, but guidance 3.5 to 4.5 is distilled; "
        "draw it anew, or change w_min and w_max\n"
    ) in told
    assert "Traceback" not in told


class Told:
    """Conditions that say nothing."""

    def conditions(self, indices: np.ndarray, draws: Draws) -> Conditions:
        """See Conditioner."""
        return Conditions(torch.zeros(len(indices), 1, 1))


def test_the_feed_gives_the_noise_that_a_picture_began_with(
    drawn: TrainingSet, loaded: LoadedCheckpoint, tmp_path: Path
) -> None:
    painted = prepare(
        Restyled(Prepared(drawn.folder), teacher("noir"), "noir", seed=0),
        tmp_path / "painted",
        loaded,
        Wish(size=64),
        place=choose("cpu"),
    )
    assert own.model_of(painted.info.source) == loaded.info.key
    order = Order(painted.bucket, None, 0, 3)
    batch, _ = Feed(painted, order, Told(), 0, CPU, drawn_by=loaded.info.key).batch(0, slice(0, 3))  # type: ignore[arg-type]
    assert batch.noise is not None
    for name, noise in zip(batch.names, batch.noise, strict=True):
        assert torch.equal(noise, Noise(own.seed_of(name), (4, 8, 8)).draw(0, 0))


def test_pictures_of_others_have_no_noise_to_give(words: Path, drawn: TrainingSet, loaded: LoadedCheckpoint) -> None:
    plain = TrainingSet.open(words)
    for data, key in ((plain, loaded.info.key), (drawn, "another model's key")):
        with pytest.raises(DataError, match=r"did not draw the pictures of .* itself; `laur data prepare own` does"):
            Feed(data, Order(data.bucket, None, 0, 2), None, 0, CPU, drawn_by=key)


@pytest.fixture(scope="module")
def accelerator(loaded: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    unet = lcm.fresh(loaded, CPU)
    lora = Lora(unet, rank=2, alpha=None, targets=tuple(GROUPS))
    torch.manual_seed(4)
    with torch.no_grad():
        for layer in lora.layers.values():
            layer.up.normal_(std=0.2)
    place = tmp_path_factory.mktemp("accelerator") / "result"
    return export.adapter(lora.deltas(dict(unet.named_parameters())), place, loaded, task="lcm-lora", accelerates=True)


def _batch(loaded: LoadedCheckpoint, count: int = 8) -> tuple[Batch, Draws]:
    keys = torch.arange(100, 100 + count)
    draws = Draws(5, keys)
    told = Conditions(draws.normal("context", (77, loaded.unet().config["cross_attention_dim"])))
    return Batch(0, keys, draws.normal("latent", (4, 8, 8)), told, noise=draws.normal("began", (4, 8, 8))), Draws(
        9, keys
    )


def test_every_other_sample_is_the_accelerator_s_and_some_begin_where_they_began(
    loaded: LoadedCheckpoint, accelerator: Path
) -> None:
    """Against the formula, with networks whose weights are merged by hand; every such sample begins with its noise."""
    options = style.StyleOptions(rank=3, accelerator=str(accelerator), accelerator_first=1.0, coupled=0.0)
    objective = style.build(options, loaded, CPU)
    assert objective.needs_noise
    torch.manual_seed(6)
    with torch.no_grad():
        for layer in objective.lora.layers.values():
            layer.up.normal_(std=0.05)
    batch, draws = _batch(loaded)
    told, began = batch.conditions, batch.noise
    assert told is not None
    assert began is not None
    plain, fast = lcm.fresh(loaded, CPU), lcm.fresh(loaded, CPU)
    merge(fast, str(accelerator))
    for network in (plain, fast):
        for name, layer in objective.lora.layers.items():
            weight = network.get_submodule(name).weight
            weight.data += (layer.scale * (layer.up @ layer.down)).detach().view_as(weight)
    diffusion = Diffusion(loaded.info, CPU)
    even, odd = torch.arange(0, 8, 2), torch.arange(1, 8, 2)
    last = torch.full((4,), diffusion.timesteps - 1)
    with torch.no_grad():
        x = began[even]  # as sampling begins: without the trace of the picture that x_t has at the last timestep
        found = diffusion.consistency(predict(fast, x, last, told.rows(even)), x, last)
        accelerated = (found - batch.latents[even]).square().mean()
        t, noise = objective._timesteps(draws)[odd], draws.normal("noise", (4, 8, 8))[odd]
        said = predict(plain, diffusion.noised(batch.latents[odd], noise, t), t, told.rows(odd))
        usual = (said - diffusion.target(batch.latents[odd], noise, t)).square().mean()
    loss = objective.loss(batch, draws)
    assert float(loss.parts["accelerated"]) == pytest.approx(float(accelerated), rel=1e-4)
    assert float(loss.parts["plain"]) == pytest.approx(float(usual), rel=1e-4)
    assert float(loss.total.detach()) == pytest.approx(float(accelerated + usual) / 2, rel=1e-4)


def test_both_halves_move_the_same_factors(loaded: LoadedCheckpoint, accelerator: Path) -> None:
    objective = style.build(style.StyleOptions(rank=3, accelerator=str(accelerator)), loaded, CPU)
    learning = [name for name, p in objective.model.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * len(objective.lora.layers)
    batch, draws = _batch(loaded)
    ups = [layer.up for layer in objective.lora.layers.values()]
    for rows in (slice(0, 1), slice(1, 2)):  # one of the accelerator's, one plain
        noise, told = batch.noise, batch.conditions
        assert noise is not None
        assert told is not None
        one = replace(
            batch,
            keys=batch.keys[rows],
            latents=batch.latents[rows],
            noise=noise[rows],
            conditions=told.rows(torch.arange(rows.start, rows.stop)),
        )
        slopes = torch.autograd.grad(objective.loss(one, draws[rows]).total, ups, allow_unused=True)
        assert all(slope is not None and float(slope.abs().max()) > 0 for slope in slopes)


def test_slices_average_to_the_whole(loaded: LoadedCheckpoint, accelerator: Path) -> None:
    objective = style.build(style.StyleOptions(rank=3, accelerator=str(accelerator)), loaded, CPU)
    batch, draws = _batch(loaded)
    noise, told = batch.noise, batch.conditions
    assert noise is not None
    assert told is not None
    with torch.no_grad():
        whole = float(objective.loss(batch, draws).total)
        parts = []
        for start in (0, 2, 4, 6):
            rows = slice(start, start + 2)
            one = replace(
                batch,
                keys=batch.keys[rows],
                latents=batch.latents[rows],
                noise=noise[rows],
                conditions=told.rows(torch.arange(start, start + 2)),
            )
            parts.append(float(objective.loss(one, draws[rows]).total))
    assert whole == pytest.approx(sum(parts) / 4, rel=1e-4)
