"""Styles learned along an accelerator's whole way: predictions of each step as sets, and each step's own target."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_set import tiny_set

from helpers.tiny import tiny_folder
from laur.cli.app import run
from laur.core.errors import DataError, TrainingError
from laur.core.noise import Noise
from laur.core.recipe import Recipe
from laur.pipeline.device import choose
from laur.pipeline.engine import Engine
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.style.teachers import teacher
from laur.train.batch import Batch, Conditions
from laur.train.conditions import plain_prompt
from laur.train.data import shards
from laur.train.data.maker import Wish
from laur.train.data.prepare import prepare
from laur.train.data.reader import TrainingSet
from laur.train.data.sources import own
from laur.train.data.sources.prepared import Prepared
from laur.train.data.sources.restyled import Restyled
from laur.train.draws import Draws
from laur.train.objectives import style
from laur.train.objectives.lcf import merge
from laur.train.objectives.lcm import fresh
from laur.train.objectives.networks import Diffusion, predict
from laur.train.objectives.way import Way

CPU = torch.device("cpu")
STEPS = 3


@pytest.fixture(scope="module")
def mini() -> LoadedCheckpoint:
    return load("mini")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("way") / "sd1")


@pytest.fixture(scope="module")
def words(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("words") / "set", tiny)


@pytest.fixture(scope="module")
def plain(words: Path, mini: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What mini predicts at each of three steps."""
    home = tmp_path_factory.mktemp("plain")
    for until in range(1, STEPS + 1):
        source = own.Own(words, size=64, limit=2, steps=STEPS, until=until)
        prepare(source, home / str(until), mini, Wish(size=64, pixels=True), place=choose("cpu"))
    return [home / str(until) for until in range(1, STEPS + 1)]


@pytest.fixture(scope="module")
def painted(plain: list[Path], mini: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("painted")
    for folder in plain:
        source = Restyled(Prepared(folder), teacher("noir"), "", seed=0)
        prepare(source, home / folder.name, mini, Wish(size=64), place=choose("cpu"))
    return [home / folder.name for folder in plain]


def test_each_set_holds_what_is_predicted_at_its_step(plain: list[Path], mini: LoadedCheckpoint) -> None:
    """Step by step from the network itself: f, and the next latents with the seed's own noise."""
    sets = [TrainingSet.open(folder) for folder in plain]
    ways = [own.way_of(data.info.source) for data in sets]
    assert [way[1] for way in ways if way] == [1, 2, 3]
    assert len({way[0] for way in ways if way}) == 1
    timesteps = ways[0][0] if ways[0] else ()
    assert len(timesteps) == STEPS
    fast = fresh(mini, CPU)
    merge(fast, "lcm-lora-mini")
    fast.eval()
    diffusion, engine, vae = Diffusion(mini.info, CPU), Engine("mini", dtype="float32"), mini.vae().float()
    (name, _), ((caption,), _) = sets[0].names(np.arange(2)), sets[0].captions(np.arange(2))
    recipe = Recipe(prompt=plain_prompt(caption), seed=own.seed_of(name), width=64, height=64, steps=STEPS)
    plan = engine.resolve(recipe).plan
    states = engine.library.encode(plan.stages[0].checkpoint, plan.stages[0].adapters, plan.stages[0].rows[0].text)
    noise, x0 = Noise(own.seed_of(name), (mini.info.latent_channels, 8, 8)), torch.zeros(0)
    told = Conditions(states.context[None].float())
    seen: list[torch.Tensor] = []
    for number, (data, timestep) in enumerate(zip(sets, timesteps, strict=True)):
        t = torch.tensor([timestep])
        x = noise.draw(0, 0)[None] if not number else diffusion.noised(x0, noise.draw(0, number)[None], t)
        with torch.no_grad():
            x0 = diffusion.consistency(predict(fast, x, t, told), x, t)
            pixels = vae.decode(x0 / mini.info.latent_scale + mini.info.latent_shift).sample[0].clamp(-1, 1)
        kept = data.pixels(np.array([0]))[0]
        assert float((pixels - kept).abs().mean()) < 0.02, number  # the engine's own precision, and eight bits
        seen.append(kept)
    for one, other in itertools.pairwise(seen):
        assert float((one - other).abs().mean()) > 0.03


def test_the_last_step_s_prediction_is_the_picture(words: Path) -> None:
    whole, last = (own.Own(words, size=64, limit=1, steps=2, until=until) for until in (None, 2))
    (a,), (b,) = whole.records(0, 1), last.records(0, 1)
    assert np.array_equal(a.pixels, b.pixels)
    assert "until" not in whole.describe()
    assert own.way_of(whole.describe()) is None
    told = last.describe()
    assert (told["until"], len(told["timesteps"])) == (2, 2)
    assert own.way_of({"kind": "restyled", "beneath": {"kind": "set", "beneath": told}}) == (
        tuple(told["timesteps"]),
        2,
    )


@pytest.mark.parametrize(
    ("until", "model", "said"),
    [
        (0, "mini", "until is 0; steps are counted from 1"),
        (5, "mini", "until is 5, but mini draws in 4 steps; give fewer, or --steps"),
        (1, "{tiny}", "; only consistency models (lcm) predict a whole picture at each step, so leave until out"),
    ],
)
def test_steps_that_are_none(until: int, model: str, said: str, words: Path, tiny: Path) -> None:
    with pytest.raises(DataError) as caught:
        own.Own(words, model.format(tiny=tiny), size=64, until=until).describe()
    assert said in str(caught.value)


def test_a_way_gives_the_engine_s_noise_and_the_painting_of_each_step(painted: list[Path]) -> None:
    way, last = Way([str(folder) for folder in painted[:-1]]), TrainingSet.open(painted[-1])
    way.fits(last)
    names = last.names(np.arange(2))
    z = last.latents(np.arange(2))
    assert way.knows([*names, "no such"]).tolist() == [True, True, False]
    for number, folder in enumerate(painted):
        assert torch.equal(way.painted(names, number, z), TrainingSet.open(folder).latents(np.arange(2)))
        expected = [Noise(own.seed_of(name), (z.shape[1], 8, 8)).draw(0, number) for name in names]
        assert torch.equal(way.noise(names, number, z), torch.stack(expected))


def test_a_way_is_known_by_all_of_its_sets(painted: list[Path], tmp_path: Path) -> None:
    first, second, _ = (str(folder) for folder in painted)
    key = Way([first, second]).key
    assert Way([first, second]).key == key
    other = _told_anew(painted[1], tmp_path / "second", lambda values: values.update(model="mini again"))
    assert Way([first, str(other)]).key != key


def _told_anew(folder: Path, home: Path, change: Any) -> Path:
    shutil.copytree(folder, home)
    values = json.loads((home / shards.INDEX).read_text())
    change(values)
    (home / shards.INDEX).write_text(json.dumps(values))
    return home


def test_sets_that_make_no_way(painted: list[Path], words: Path, tmp_path: Path) -> None:
    first, second, last = painted
    with pytest.raises(DataError, match=r"holds no predictions of one step; `laur data prepare own --until 1` does"):
        Way([str(words)])
    for folders in ([second, first], [first], [first, second, last], [second]):
        with pytest.raises(DataError, match=r"holds step \d of 3, at .*earlier sets are steps 1 to \d of one way of"):
            Way([str(folder) for folder in folders])
    way = Way([str(first), str(second)])
    with pytest.raises(DataError, match="were not drawn by one model in one size"):
        way.fits(TrainingSet.open(words))

    def of_others(values: dict[str, Any]) -> None:
        values["source"]["beneath"]["beneath"]["model"] = "another"

    with pytest.raises(DataError, match="were not drawn by one model in one size"):
        way.fits(TrainingSet.open(_told_anew(last, tmp_path / "others", of_others)))


@pytest.mark.parametrize(
    ("which", "change", "said"),
    [
        ("own", {"until": 2}, "is not where the way of .*--steps 3 --until 3`"),
        ("own", {"timesteps": [999, 500, 1]}, "is not where the way of"),
        ("own", {"until": None, "timesteps": None, "steps": 8}, "is not where the way of"),
        ("own", {"until": None, "timesteps": None, "steps": None}, "is not where the way of"),
        ("own", {"until": None, "timesteps": None, "guidance": 4.0}, "is not where the way of"),
        ("painting", {"teacher": "ink"}, "were not painted alike: teacher, its code, trigger or seed differ"),
        ("painting", {"code": "0" * 64}, "were not painted alike"),
        ("painting", {"trigger": "noir"}, "were not painted alike"),
        ("painting", {"seed": 1}, "were not painted alike"),
        ("own", {"until": None, "timesteps": None}, None),
    ],
)
def test_the_run_s_own_set_ends_the_way(
    which: str, change: dict[str, Any], said: str | None, painted: list[Path], tmp_path: Path
) -> None:
    """The pictures of its last step, or finished ones of as many steps, under one and the same painting."""
    *before, last = painted

    def changed(values: dict[str, Any]) -> None:
        source = values["source"] if which == "painting" else values["source"]["beneath"]["beneath"]
        source.update(change)
        for key in [key for key, value in change.items() if value is None]:
            del source[key]

    way, data = Way([str(folder) for folder in before]), TrainingSet.open(_told_anew(last, tmp_path / "it", changed))
    if said is None:
        way.fits(data)
        return
    with pytest.raises(DataError, match=said):
        way.fits(data)


def test_a_set_of_other_pictures_does_not_fit(
    painted: list[Path], words: Path, mini: LoadedCheckpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    renamed = tmp_path / "words"
    data = TrainingSet.open(words)
    places = np.arange(len(data))
    other = own.Own(_renamed(data, places, renamed), size=64, limit=2, steps=STEPS)
    prepare(other, tmp_path / "other", mini, Wish(size=64), place=choose("cpu"))
    way = [str(folder) for folder in painted[:-1]]
    command = ["train", "style", "--data", str(tmp_path / "other"), "--out", str(tmp_path / "run"), "--updates", "1"]
    options = ["--set", "objective.accelerator=lcm-lora-mini", "--set", f"objective.path={json.dumps(way)}"]
    assert run([*command, *options, "--device", "cpu", "--batch", "1"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "only 0 of the 2 pictures of" in said
    assert "prepare both from the same captions" in said


def _renamed(data: TrainingSet, places: np.ndarray, home: Path) -> Path:
    """The same captions under other names."""
    samples = [
        shards.Sample(
            name=f"other {data.names(places[i : i + 1])[0]}",
            captions=data.captions(places[i : i + 1])[0],
            style="egg",
            licence="CC0-1.0",
            origin="tests",
            bucket=0,
            latent=np.asarray(data.latents(places[i : i + 1])[0], np.float16),
            original=(64, 64),
            crop=(0, 0),
            pixels=None,
            states=(),
            pooled=(),
        )
        for i in range(len(places))
    ]
    home.mkdir()
    shards.write(home / shards.part_name(0), samples, {})
    values = json.loads((data.folder / shards.INDEX).read_text()) | {"keeps_pixels": False}
    (home / shards.INDEX).write_text(json.dumps(values))
    return home


def test_a_path_needs_an_accelerator() -> None:
    with pytest.raises(TrainingError, match=r"objective\.path is an accelerator's"):
        style.StyleOptions(path=("a",))
    with pytest.raises(TrainingError, match="huber is 0; it must be above 0"):
        style.StyleOptions(huber=0)


class Walk:
    """A way over two steps, of one picture alone."""

    timesteps = torch.tensor([900, 300])

    def __init__(self, known: str) -> None:
        self._known = known
        torch.manual_seed(1)
        self.draws, self.first = torch.randn(2, 4, 8, 8), torch.randn(4, 8, 8)

    def knows(self, names: list[str]) -> torch.Tensor:
        """See Way."""
        return torch.tensor([name == self._known for name in names])

    def noise(self, names: list[str], number: int, like: torch.Tensor) -> torch.Tensor:
        """See Way."""
        return self.draws[number].expand_as(like)

    def painted(self, names: list[str], number: int, last: torch.Tensor) -> torch.Tensor:
        """See Way."""
        return last if number else self.first.expand_as(last)


@pytest.mark.parametrize("distance", ["squared", "pseudo_huber"])
def test_each_step_begins_where_the_last_prediction_led(tiny: Path, distance: Any) -> None:
    """The loss and its slopes, against the way written out with merged weights."""
    loaded = load(str(tiny))
    options = style.StyleOptions(rank=3, distance=distance, huber=0.2)
    unet, fast, diffusion = fresh(loaded, CPU), fresh(loaded, CPU), Diffusion(loaded.info, CPU)
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in fast.parameters():  # an accelerator of a kind
            weight.add_(0.02 * torch.randn_like(weight))
    walk = Walk("known")
    objective = style.Style(loaded, unet, diffusion, options, fast=fast, way=walk)  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in objective.lora.layers.values():
            layer.up.normal_(std=0.05)
    keys = torch.tensor([4])  # even: the accelerator's
    draws = Draws(5, keys)
    told = Conditions(draws.normal("context", (77, loaded.unet().config["cross_attention_dim"])))
    z, began = draws.normal("latent", (4, 8, 8)), draws.normal("began", (4, 8, 8))
    batch = Batch(0, keys, z, told, noise=began, names=("known",))
    loss = objective.loss(batch, Draws(9, keys))
    slopes = torch.autograd.grad(loss.total, objective.lora.parameters)

    def far(found: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        error = found - goal
        return error.square().mean() if distance == "squared" else ((error.square() + 0.04).sqrt() - 0.2).mean()

    first, second = torch.tensor([900]), torch.tensor([300])
    one = diffusion.consistency(predict(fast, began, first, told), began, first)
    x = diffusion.noised(one.detach(), walk.draws[1][None], second)
    two = diffusion.consistency(predict(fast, x, second, told), x, second)
    by_hand = (far(one, walk.first[None]) + far(two, z)) / 2
    assert float(loss.parts["accelerated"]) == pytest.approx(2 * float(by_hand.detach()), rel=1e-4)
    for slope, expected in zip(slopes, torch.autograd.grad(by_hand, objective.lora.parameters), strict=True):
        torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-6)
    unknown = Batch(0, keys, z, told, noise=began, names=("unknown",))
    with torch.no_grad():  # a picture without earlier ones is learned as if there were no way
        alone = style.Style(loaded, unet, diffusion, options, fast=fast)
        alone.lora = objective.lora
        assert float(objective.loss(unknown, Draws(9, keys)).total) == float(alone.loss(unknown, Draws(9, keys)).total)
