"""Every task from pictures to a result, through the command line, on a checkpoint a few channels wide."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_set import COLOURS, tiny_set

from helpers.tiny import tiny_folder
from laur.cli.app import run
from laur.cli.evaluate import _prompts
from laur.core.recipe import Recipe
from laur.optimize.algebra import matrix
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes
from laur.pipeline.engine import Engine
from laur.pipeline.loading.load import load
from laur.train.batch import Batch, Conditions
from laur.train.draws import Draws
from laur.train.journal import read
from laur.train.objective import Loss
from laur.train.objectives.drawn import DrawnLatents
from laur.train.objectives.lcf import merge
from laur.train.objectives.lcm import fresh
from laur.train.objectives.networks import predict
from laur.train.objectives.style import Style

UPDATES = 2
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("checkpoint") / "sd1")


@pytest.fixture(scope="module")
def data(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("data") / "set", checkpoint)


def trained(task: str, out: Path, checkpoint: Path, data: Path, *options: str) -> int:
    fixed = ["--model", str(checkpoint), "--data", str(data), "--out", str(out), "--device", "cpu"]
    small = ["--batch", "2", "--updates", str(UPDATES), "--precision", "float32"]
    some = ["sheet.updates=2", "sheet.pictures=1", "sheet.steps=2", "sheet.seeds=[1]", "journal.tensorboard=false"]
    sets = [part for setting in some for part in ("--set", setting)]
    return run(["train", task, *fixed, *small, *sets, *options])


def outcome(task: str, out: Path, checkpoint: Path, data: Path, *options: str) -> Path:
    """The result's path, after looking at all that a run leaves."""
    assert trained(task, out, checkpoint, data, *options) == 0
    assert [line["update"] for line in read(out / "journal.jsonl")] == list(range(UPDATES))
    assert [path.name for path in (out / "sheets").iterdir()] == ["00000002.png"]
    assert [path.name for path in (out / "states").iterdir()] == ["00000002"]
    found = [path for path in (out / "result").iterdir() if path.suffix == ".safetensors"]
    return found[0] if found else out / "result"


@pytest.fixture(scope="module")
def lcm_lora(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lcm-lora"
    return outcome("lcm-lora", out, checkpoint, data, "--set", "objective.rank=4")


def test_lcm_lora(lcm_lora: Path) -> None:
    assert lcm_lora.suffix == ".safetensors"
    assert (lcm_lora.parent / "README.md").is_file()


def test_style(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = outcome("style", out, checkpoint, data, "--set", "objective.rank=4", "--accumulate", "2")
    first = result.read_bytes()
    assert run(["train", "style", "--out", str(out), "--resume", "--updates", "4"]) == 0
    assert [line["update"] for line in read(out / "journal.jsonl")] == list(range(4))
    assert result.read_bytes() != first


def test_a_style_goes_on_from_an_adapter(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    first = outcome("style", tmp_path / "first", checkpoint, data, "--set", "objective.rank=2")
    begin = ("--set", f"objective.adapter={json.dumps(str(first))}")
    rank = ("--set", "objective.rank=3", "--set", "optimiser.lr=1e-12")  # what is not learned stays
    again = outcome("style", tmp_path / "again", checkpoint, data, *begin, *rank)
    shapes = layer_shapes(load(str(checkpoint)).unet(), "unet")
    before, after = (LoraFile(path).deltas(shapes) for path in (first, again))
    assert before.keys() == after.keys()
    for name, delta in before.items():
        assert torch.allclose(matrix(name, delta), matrix(name, after[name]), atol=1e-3), name
    assert trained("style", tmp_path / "less", checkpoint, data, *begin, "--set", "objective.rank=1") == 2


def test_a_lora_learns_what_a_fine_tune_predicts(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    much = ("--set", "optimiser.lr=3e-3", "--set", "optimiser.warmup=0")
    tuned = outcome("base", tmp_path / "tuned", checkpoint, data, *much)
    teacher = ("--set", f"objective.teacher={json.dumps(str(tuned))}", "--set", "sheet.updates=0")
    some = ("--set", "optimiser.lr=1e-3", "--set", 'objective.timesteps="uniform"', "--batch", "8", "--updates", "60")
    assert trained("style", tmp_path / "run", checkpoint, data, *teacher, *some) == 0
    loaded, cpu = load(str(checkpoint)), torch.device("cpu")
    base, student, goal = fresh(loaded, cpu), fresh(loaded, cpu), fresh(load(str(tuned)), cpu)
    merge(student, str(next((tmp_path / "run" / "result").glob("*.safetensors"))))
    draws, t = Draws(3, torch.arange(8)), torch.arange(60, 1000, 120)
    x, context = draws.normal("x", (4, 8, 8)), draws.normal("context", (77, base.config["cross_attention_dim"]))
    with torch.no_grad():
        plain, after, wanted = (predict(unet, x, t, Conditions(context)) for unet in (base, student, goal))
    assert (after - wanted).square().mean() < 0.8 * (plain - wanted).square().mean()


def test_a_run_does_not_go_on_upon_files_that_were_made_anew(
    checkpoint: Path, data: Path, lcm_lora: Path, tmp_path: Path, capfd: Captured
) -> None:
    file, prior = tmp_path / "adapter.safetensors", tmp_path / "prior"
    shutil.copy(lcm_lora, file)
    shutil.copytree(data, prior)
    named = f"objective.adapter={json.dumps(str(file))}"
    kept = f"objective.prior={json.dumps(str(prior))}"
    runs = {"lcf": [named], "lcm-lora": [named], "style": [named, kept]}

    def going_on(task: str, updates: int) -> int:
        sets = [part for setting in (*runs[task], "objective.rank=4") for part in ("--set", setting)]
        targets = ("--set", 'objective.targets=["attention","projection","feed_forward","conv","time"]')
        return trained(task, tmp_path / task, checkpoint, data, *sets, *targets, "--updates", str(updates))

    assert [going_on(task, 1) for task in runs] == [0, 0, 0]
    assert [going_on(task, 2) for task in runs] == [0, 0, 0]
    values = json.loads((prior / "set.json").read_text())
    (prior / "set.json").write_text(json.dumps(values, indent=3))
    capfd.readouterr()
    assert [going_on(task, 3) for task in runs] == [0, 0, 2]
    assert "holds a run on another objective.prior (content " in capfd.readouterr().err
    tensors = {name: 0.5 * tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, safe_open(file, "pt").metadata())
    for task in ("lcf", "lcm-lora"):
        assert going_on(task, 4) == 2
        assert "holds a run on another objective.adapter (content " in capfd.readouterr().err


def test_the_fold_for_measuring_is_left_out_and_the_result_says_so(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gold is the one colour of that fold: neither the set nor the prior shows it."""
    seen: set[str] = set()
    loss = Style.loss

    def looked_at(self: Style, batch: Batch, draws: Draws) -> Loss:
        assert self._prior is not None
        seen.update(batch.names, self._prior.batch(batch, draws).names)
        return loss(self, batch, draws)

    monkeypatch.setattr(Style, "loss", looked_at)
    prior = ("--set", f"objective.prior={json.dumps(str(data))}", "--set", "objective.rank=4", "--batch", "12")
    for told in (False, True):
        seen.clear()
        out, wish = tmp_path / str(told), f"data.hold_out={str(told).lower()}"
        result = outcome("style", out, checkpoint, data, *prior, "--set", wish)
        assert ("gold.png" in seen) is not told
        assert len(seen) == len(COLOURS) - told
        assert (safe_open(result, "pt").metadata().get("laur.held_out") == "fold 0 of 10") is told
        card = (result.parent / "README.md").read_text()
        assert ("has not seen the concepts of fold 0 of 10" in card) is told
    prompts, source, _ = _prompts(data, None)
    assert [prompt.concept for prompt in prompts] == ["gold"]
    assert "held out only if training left it out: data.hold_out" in source


@pytest.mark.parametrize("task", ["lcm-lora", "lcm", "base", "vae"])
def test_every_task_can_leave_the_fold_out(task: str, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    rank = ("--set", "objective.rank=4") if task == "lcm-lora" else ()
    result = outcome(task, tmp_path / "run", checkpoint, data, "--set", "data.hold_out=true", *rank)
    folder = result if result.is_dir() else result.parent
    assert "has not seen the concepts of fold 0 of 10" in (folder / "README.md").read_text()


def test_lcf(checkpoint: Path, data: Path, lcm_lora: Path, tmp_path: Path) -> None:
    options = ("--set", "objective.rank=4", "--set", f"objective.adapter={json.dumps(str(lcm_lora))}")
    result = outcome("lcf", tmp_path / "run", checkpoint, data, *options, "--set", "data.hold_out=true")
    assert result.suffix == ".safetensors"
    assert "has not seen the concepts" in (result.parent / "README.md").read_text()


def test_lcm_and_lcf_of_it(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    lcm = outcome("lcm", tmp_path / "lcm", checkpoint, data, "--checkpointing")
    info = Engine(str(lcm), device="cpu").library.checkpoint(str(lcm))
    assert info.guidance_embedding
    result = outcome("lcf", tmp_path / "lcf", lcm, data, "--set", "objective.whole=true")
    assert (result / "unet").is_dir()


def test_lcf_of_every_weight_with_an_lcm_lora_is_an_lcm(
    checkpoint: Path, data: Path, lcm_lora: Path, tmp_path: Path
) -> None:
    """What it writes draws in few steps by itself, here and in diffusers, and is fine-tuned without an adapter."""
    options = ("--set", "objective.whole=true", "--set", f"objective.adapter={json.dumps(str(lcm_lora))}")
    result = outcome("lcf", tmp_path / "whole", checkpoint, data, *options)
    engine = Engine(str(result), device="cpu", dtype="float32")
    info = engine.library.checkpoint(str(result))
    assert info.is_lcm
    assert not info.guidance_embedding
    resolved = engine.resolve(Recipe(prompt="a red egg", seed=1))
    assert (resolved.recipe.sampler, resolved.recipe.steps, resolved.recipe.guidance) == ("lcm", 4, 1.0)
    assert [len(stage.rows) for stage in resolved.plan.stages] == [1]
    assert not resolved.warnings
    (burnt,) = engine.resolve(Recipe(prompt="a red egg", seed=1, guidance=5.0)).warnings
    assert "guidance 5 burns pictures of an LCM" in burnt
    assert "at guidance 1" in (result / "README.md").read_text()
    pipeline: Any = DiffusionPipeline.from_pretrained(result)
    assert type(pipeline.scheduler) is LCMScheduler
    drawn = pipeline("a red egg", num_inference_steps=2, guidance_scale=1.0, height=64, width=64, output_type="np")
    assert float(drawn.images.std()) > 0
    again = outcome("lcf", tmp_path / "again", result, data, "--set", "objective.rank=4")
    assert "together with" not in (again.parent / "README.md").read_text()
    assert trained("base", tmp_path / "base", result, data) == 2
    assert trained("lcf", tmp_path / "none", checkpoint, data) == 2


def test_a_run_that_goes_on_does_not_draw_again_what_it_holds(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings: list[int] = []
    draw = DrawnLatents._draw

    def counted(self: DrawnLatents) -> torch.Tensor:
        drawings.append(len(self))
        return draw(self)

    monkeypatch.setattr(DrawnLatents, "_draw", counted)
    settings = ("encoder=true", "keep=1.0", "crop=32", "drawings=3", f"drawn={json.dumps(str(data))}")
    options = tuple(part for setting in settings for part in ("--set", f"objective.{setting}"))
    for name, updates in (("whole", "4"), ("broken", "2")):
        assert trained("vae", tmp_path / name, checkpoint, data, *options, "--updates", updates) == 0
    assert drawings == [3, 3]
    assert run(["train", "vae", "--out", str(tmp_path / "broken"), "--resume", "--updates", "4"]) == 0
    assert drawings == [3, 3]  # the state had them
    held = [load_file(tmp_path / n / "states" / "00000004" / "objective.safetensors") for n in ("whole", "broken")]
    assert held[0].keys() == held[1].keys() != set()
    assert all(torch.equal(held[0][key], held[1][key]) for key in held[0])


@pytest.mark.parametrize("task", ["base", "vae"])
def test_whole_checkpoints(task: str, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = outcome(task, tmp_path / "run", checkpoint, data)
    assert (result / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "objective.rank=4000"), "rank 4000 is above what"),
        (("--set", "objective.rnk=4"), "there is no setting objective.rnk; the nearest is objective.rank"),
        (("--set", "data.mix={nothing=1}"), "the set has no style 'nothing'"),
        (("--data", "nowhere"), "nowhere is no prepared set"),
        (("--data", ""), "name the prepared set to learn from with --data"),
        (("--model", "nomodel"), "nomodel"),
        (("--batch", "3", "--accumulate", "2"), "a batch of 3 cannot be split evenly over 2 slices"),
    ],
)
def test_bad_input_is_told_in_a_line(
    options: tuple[str, ...], words: str, checkpoint: Path, data: Path, tmp_path: Path, *, capfd: Captured
) -> None:
    assert trained("style", tmp_path / "run", checkpoint, data, *options) == 2
    told = capfd.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_an_empty_set(checkpoint: Path, data: Path, tmp_path: Path, capfd: Captured) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    values = json.loads((data / "set.json").read_bytes()) | {"pictures": 0, "parts": [], "styles": {}, "licences": {}}
    (empty / "set.json").write_text(json.dumps(values))
    assert trained("style", tmp_path / "run", checkpoint, empty) == 2
    assert "holds no pictures" in capfd.readouterr().err
