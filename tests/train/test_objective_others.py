"""Denoising and styles against their formulas; what is written, against diffusers and the Engine."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.training_utils import compute_snr
from safetensors import safe_open
from tiny_set import tiny_set

from helpers.tiny import tiny_folder
from laur.core.errors import ResourceError, TrainingError
from laur.core.recipe import Recipe
from laur.optimize.deltas import LowRank
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes
from laur.pipeline import device as devices
from laur.pipeline import memory
from laur.pipeline.engine import Engine
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.train.batch import Batch, Conditions
from laur.train.draws import Draws
from laur.train.objectives import base, export, lcm, style
from laur.train.objectives.lora import GROUPS, Lora, chosen
from laur.train.objectives.networks import Diffusion, predict

CPU = torch.device("cpu")
ALL = tuple(GROUPS)


def some_batch(loaded: LoadedCheckpoint, count: int = 6) -> tuple[Batch, Draws]:
    keys = torch.arange(count)
    draws = Draws(5, keys)
    width = loaded.unet().config["cross_attention_dim"]
    conditions = Conditions(draws.normal("context", (77, width)))
    return Batch(0, keys, draws.normal("latent", (4, 8, 8)), conditions), Draws(9, keys)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_denoising_is_diffusers_own_loss(family: str, tmp_path: Path) -> None:
    loaded = load(str(tiny_folder(family, tmp_path / family)))
    batch, draws = some_batch(loaded)
    assert batch.conditions is not None
    unet, diffusion = copy.deepcopy(loaded.unet()).float(), Diffusion(loaded.info, CPU)
    options = base.BaseOptions(timesteps="uniform", min_snr=5.0)
    schedule = loaded.info.schedule
    theirs: Any = DDIMScheduler(
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        prediction_type=loaded.info.prediction,
    )
    with torch.no_grad():
        weighted, plain = base.denoising(unet, diffusion, options, batch, draws)
        t, noise = draws.integers("timestep", 0, 1000), draws.normal("noise", (4, 8, 8))
        said = predict(unet, theirs.add_noise(batch.latents, noise, t), t, batch.conditions)
        goal = noise if loaded.info.prediction == "epsilon" else theirs.get_velocity(batch.latents, noise, t)
        expected = (said - goal).square().mean((1, 2, 3))
        snr = compute_snr(theirs, t)
        weight = snr.clamp(max=5.0) / (snr if loaded.info.prediction == "epsilon" else snr + 1)
    torch.testing.assert_close(plain, expected, rtol=2e-4, atol=1e-5)
    torch.testing.assert_close(weighted, expected * weight, rtol=2e-4, atol=1e-5)


def test_timesteps_lean_as_they_should() -> None:
    draws = Draws(0, torch.arange(20_000))
    uniform, middle = (
        base.draw_timesteps(base.DenoisingOptions(timesteps=kind), draws, 1000).float()
        for kind in ("uniform", "logit_normal")
    )
    assert float(uniform.mean()) == pytest.approx(499.5, abs=10)
    assert float(uniform.std()) == pytest.approx(288.7, abs=5)
    assert float(middle.median()) == pytest.approx(1000 * torch.tensor(0.6).sigmoid().item(), abs=10)
    assert float(middle.std()) < 230


def test_a_prior_counts_as_much_as_it_says(sd1: LoadedCheckpoint, sd1_folder: Path, tmp_path: Path) -> None:
    data = tiny_set(tmp_path / "set", sd1_folder)
    batch, draws = some_batch(sd1)
    with torch.no_grad():
        plain = style.build(style.StyleOptions(rank=4), sd1, CPU).loss(batch, draws)
        options = style.StyleOptions(rank=4, prior=str(data), prior_weight=0.5)
        both = style.build(options, sd1, CPU).loss(batch, draws)
    assert float(both.parts["style"]) == pytest.approx(float(plain.total), rel=1e-5)
    assert float(both.parts["prior"]) > 0
    assert float(both.total) == pytest.approx(float(both.parts["style"]) + 0.5 * float(both.parts["prior"]), rel=1e-5)


def test_a_prior_shows_every_shape_as_often_as_it_has_pictures_of_it(
    sd1: LoadedCheckpoint, sd1_folder: Path, tmp_path: Path
) -> None:
    prior = style.Prior(str(tiny_set(tmp_path / "set", sd1_folder)), sd1, CPU)
    prior._set.bucket = np.array([0, 0, 0, 0, 1, 1], np.int32)  # type: ignore[misc]
    prior._set.info.buckets.append((64, 64))  # type: ignore[attr-defined]
    batch, draws = some_batch(sd1)
    seen = [prior.batch(dataclasses.replace(batch, update=update), draws).names for update in range(200)]
    others = {"teal.png", "pink.png"}
    of_others = [set(names) <= others for names in seen]
    assert all(inside or not set(names) & others for inside, names in zip(of_others, seen, strict=True))
    assert 200 / 3 - 30 < sum(of_others) < 200 / 3 + 30


def random_lora(loaded: LoadedCheckpoint, rank: int = 4) -> tuple[Any, Lora]:
    unet = lcm.fresh(loaded, CPU)
    lora = Lora(unet, rank=rank, alpha=2.0, targets=ALL)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in lora.layers.values():
            layer.up.normal_(std=0.2)
    return unet, lora


def test_an_adapters_factors_are_learned_on_at_one_size(sd1: LoadedCheckpoint) -> None:
    """An optimiser's step is of one size for every element, and files in 8 bits have factors of 1e2 and 1e-6."""
    unet, lora = random_lora(sd1)
    found = {f"unet.{name}": delta for name, delta in lora.deltas(dict(unet.named_parameters())).items()}
    uneven = {name: LowRank(delta.up * 1e-5, delta.down * 1e3, delta.scale * 1e2) for name, delta in found.items()}
    again = Lora(lcm.fresh(sd1, CPU), rank=5, alpha=None, targets=ALL)
    again.begin_with(uneven)
    for name, layer in again.layers.items():
        up, down = (factor.detach().square().mean().sqrt() for factor in (layer.up[:, :4], layer.down[:4]))
        torch.testing.assert_close(up, down, rtol=1e-4, atol=0.0)
        torch.testing.assert_close(layer.merged(), unet.get_submodule(name).merged(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("min_snr", [0.0, 5.0])
def test_a_teachers_predictions_are_what_is_learned(sd1: LoadedCheckpoint, min_snr: float) -> None:
    """None is left to learn with the teacher's own difference; without it, what the two predict is compared."""
    teacher, lora = random_lora(sd1)
    diffusion = Diffusion(sd1.info, CPU)
    options = style.StyleOptions(rank=4, targets=ALL, timesteps="uniform", min_snr=min_snr)
    batch, draws = some_batch(sd1)
    assert batch.conditions is not None
    student = style.Style(sd1, lcm.fresh(sd1, CPU), diffusion, options, teacher=teacher)
    x = diffusion.noised(batch.latents, draws.normal("noise", (4, 8, 8)), t := draws.integers("timestep", 0, 1000))
    with torch.no_grad():
        wanted, said = (predict(unet, x, t, batch.conditions) for unet in (teacher, lcm.fresh(sd1, CPU)))
        snr = diffusion.snr(t)
        weight = snr.clamp(max=5.0) / snr if min_snr else torch.ones(6)
        expected = ((said - wanted).square().mean((1, 2, 3)) * weight).mean()
    loss = student.loss(batch, draws).total
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-7)
    assert float(expected) > 1e-4
    loss.backward()
    assert all(factor.grad is not None for factor in student.lora.parameters)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    found = lora.deltas(dict(teacher.named_parameters()))
    student.lora.begin_with({f"unet.{name}": delta for name, delta in found.items()})
    with torch.no_grad():
        assert float(student.loss(batch, draws).total) < 1e-6 * float(expected)


def test_a_teacher_is_followed_with_the_accelerator_in_both(sd1: LoadedCheckpoint) -> None:
    """Even samples learn f of the teacher at a step of the student's own way, against that way written out."""
    teacher, lora = random_lora(sd1)
    fast, fast_teacher = lcm.fresh(sd1, CPU), copy.deepcopy(teacher)
    torch.manual_seed(3)
    with torch.no_grad():
        for ours, theirs in zip(fast.parameters(), _bases(fast_teacher), strict=True):  # an accelerator of a kind
            change = 0.02 * torch.randn_like(ours)
            ours.add_(change)
            theirs.add_(change)
    diffusion, steps = Diffusion(sd1.info, CPU), [999, 759, 499, 259]
    options = style.StyleOptions(rank=4, targets=ALL, timesteps="uniform", accelerator="one", teacher="another")
    student = style.Style(
        sd1, lcm.fresh(sd1, CPU), diffusion, options, fast=fast, teacher=teacher, fast_teacher=fast_teacher
    )
    assert not student.needs_noise
    assert student.also_differentiated == (fast,)  # recomputed and compiled like the model itself
    batch, draws = some_batch(sd1, 16)
    assert batch.conditions is not None
    loss = student.loss(batch, draws)
    seen, total = set(), torch.zeros(())
    for row in range(0, 16, 2):
        told, last = batch.conditions.rows(torch.tensor([row])), int(draws.integers("step", 0, 4)[row])
        noise = [draws.normal(f"noise of step {k}", (4, 8, 8))[row][None] for k in range(4)]
        x = noise[0]
        for number in range(last + 1):
            t = torch.tensor([steps[number]])
            found = diffusion.consistency(predict(fast, x, t, told), x, t)
            wanted = diffusion.consistency(predict(fast_teacher, x, t, told), x, t)
            if number < last:
                x = diffusion.noised(found, noise[number + 1], torch.tensor([steps[number + 1]]))
        total = total + (found - wanted).square().mean() / 8
        seen.add(last)
    assert seen == {0, 1, 2, 3}
    assert float(loss.parts["accelerated"]) == pytest.approx(float(total.detach()), rel=1e-4)
    assert float(loss.parts["plain"]) > 1e-4
    loss.total.backward()
    assert all(factor.grad is not None for factor in student.lora.parameters)
    assert not any(parameter.requires_grad for unet in (teacher, fast_teacher) for parameter in unet.parameters())
    found = lora.deltas(dict(teacher.named_parameters()))
    student.lora.begin_with({f"unet.{name}": delta for name, delta in found.items()})
    with torch.no_grad():  # nothing is left to learn with the teacher's own difference
        again = student.loss(batch, draws).parts
    assert all(float(again[part]) < 1e-5 * float(loss.parts[part]) for part in ("accelerated", "plain"))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_teacher_and_accelerator_are_read_and_slices_average_to_the_whole(family: str, tmp_path: Path) -> None:
    loaded = load(str(tiny_folder(family, tmp_path / family)))
    unet, lora = random_lora(loaded)
    adapter = export.adapter(lora.deltas(dict(unet.named_parameters())), tmp_path / "fast", loaded, task="lcm-lora")
    tuned = lcm.fresh(loaded, CPU)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    folder = export.checkpoint(tuned, dict(tuned.named_parameters()), tmp_path / "tuned", loaded, task="base")
    options = style.StyleOptions(rank=4, teacher=str(folder), accelerator=str(adapter))
    objective = style.build(options, loaded, CPU)
    assert {"objective.teacher", "objective.accelerator"} == set(objective.inputs)
    theirs, fast = (dict(found.named_parameters()) for found in (objective._teacher, objective._fast_teacher))  # type: ignore[union-attr]
    for name, weight in tuned.named_parameters():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-4)  # in half precision
        layer = lora.layers.get(name.removesuffix(".weight"))
        added = 0.0 if layer is None or not name.endswith(".weight") else layer.merged() - layer.weight
        torch.testing.assert_close(fast[name], weight + added, rtol=1e-3, atol=2e-3)
    width = loaded.unet().config["cross_attention_dim"]
    keys, size = torch.arange(4), loaded.unet().config["sample_size"]
    draws = Draws(5, keys)
    xl = loaded.info.family.is_xl
    pooled = draws.normal("pooled", (128,)) if xl else None
    ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(4, 6) if xl else None
    told = Conditions(draws.normal("context", (77, width)), pooled=pooled, size_ids=ids)
    latents = draws.normal("latent", (4, size, size))
    whole = objective.loss(Batch(0, keys, latents, told), draws).total
    halves = [
        objective.loss(Batch(0, keys[part], latents[part], told.rows(keys[part])), draws[part]).total
        for part in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), whole, rtol=1e-4, atol=1e-6)
    assert float(whole.detach()) > 1e-4


def _bases(unet: Any) -> list[torch.nn.Parameter]:
    """The parameters but a LoRA's factors."""
    return [parameter for name, parameter in unet.named_parameters() if name.rpartition(".")[2] not in {"up", "down"}]


def test_a_teacher_of_another_kind_is_refused(sd1: LoadedCheckpoint, tmp_path: Path) -> None:
    other = tiny_folder("sd2", tmp_path / "sd2")
    with pytest.raises(TrainingError, match=r"is not of .*'s kind .*give a fine-tune of the same base"):
        style.build(style.StyleOptions(rank=4, teacher=str(other)), sd1, CPU)
    with pytest.raises(TrainingError, match="two ways to learn"):
        style.StyleOptions(teacher=str(other), accelerator="lcm-lora-mini", path=("sets/one",))
    with pytest.raises(TrainingError, match="accelerator_steps is 0"):
        style.StyleOptions(teacher=str(other), accelerator="lcm-lora-mini", accelerator_steps=0)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "ssd-1b"])
def test_diffusers_draws_with_what_was_trained(family: str, tmp_path: Path) -> None:
    folder = tiny_folder(family, tmp_path / family)
    loaded = load(str(folder))
    unet, lora = random_lora(loaded)
    weights = dict(unet.named_parameters())
    path = export.adapter(lora.deltas(weights), tmp_path / "result", loaded, task="style", trigger_words=("egg",))
    kind: Any = StableDiffusionXLPipeline if loaded.info.family.is_xl else StableDiffusionPipeline
    pipeline = kind.from_pretrained(folder)
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora()
    theirs = dict(pipeline.unet.named_parameters())
    for name, layer in lora.layers.items():
        found, ours = theirs[f"{name}.base_layer.weight"].detach(), layer.merged().detach()
        torch.testing.assert_close(found, ours, rtol=2e-3, atol=2e-3 * float(ours.abs().max()))
    coverage = LoraFile(path).coverage(layer_shapes(loaded.unet(), "unet"))
    assert not coverage.left
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.trigger_phrase"] == "egg"
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_v2"] == str(family == "sd2")
    assert metadata["modelspec.architecture"].endswith("/lora")
    assert metadata["modelspec.license"]
    assert (
        json.loads(metadata["laur.recommends"])["trigger_words"] == ["egg"] if "laur.recommends" in metadata else True
    )
    card = (path.parent / "README.md").read_text()
    assert card.startswith("---\nlicense: ")
    assert "laur train style" in card


@pytest.mark.parametrize(
    ("prediction", "architecture", "version"),
    [("epsilon", "stable-diffusion-v2-512", "sd_v2"), ("v_prediction", "stable-diffusion-v2-768-v", "sd_v2_v")],
)
def test_an_adapter_of_sd_2_names_the_line_of_its_prediction(
    prediction: str, architecture: str, version: str, tmp_path: Path
) -> None:
    loaded = load(str(tiny_folder("sd2", tmp_path / "sd2", prediction=prediction)))
    unet, lora = random_lora(loaded)
    deltas = lora.deltas(dict(unet.named_parameters()))
    said = export.adapter_metadata("x", deltas, loaded, task="style", accelerates=False, trigger_words=())
    assert said["modelspec.architecture"] == f"{architecture}/lora"
    assert said["ss_base_model_version"] == version


def test_our_engine_draws_what_was_trained(sd1: LoadedCheckpoint, sd1_folder: Path, tmp_path: Path) -> None:
    """The adapter's file, and a checkpoint whose weights hold the same difference, draw the same."""
    from laur.core.recipe import AdapterRef

    unet, lora = random_lora(sd1)
    weights = dict(unet.named_parameters())
    path = export.adapter(lora.deltas(weights), tmp_path / "adapter", sd1, task="style")
    whole = copy.deepcopy(sd1.unet()).float()
    for name, layer in lora.layers.items():
        whole.get_submodule(name).weight.data.copy_(layer.merged().detach())
    folder = export.checkpoint(whole, dict(whole.named_parameters()), tmp_path / "whole", sd1, task="base")
    plain: dict[str, Any] = {"prompt": "an egg", "seed": 3, "steps": 3, "width": 64, "height": 64, "sampler": "ddim"}
    draws = [
        Engine(str(sd1_folder), device="cpu", dtype="float32").pictures(
            [Recipe(**plain, adapters=(AdapterRef(name=str(path)),))]
        ),
        Engine(str(folder), device="cpu", dtype="float32").pictures([Recipe(**plain, adapters=())]),
    ]
    first, second = (draw[0].pixels.astype("float32") for draw in draws)
    assert abs(first - second).mean() < 1.0
    assert first.std() > 1.0


def test_nothing_half_written_stays(sd1: LoadedCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, lora = random_lora(sd1)
    weights = {name: torch.full_like(p, torch.nan) for name, p in unet.named_parameters()}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match="does not draw"):
        export.adapter(lora.deltas(weights), tmp_path / "result", sd1, task="style")
    assert list(tmp_path.iterdir()) == []


def crowded(monkeypatch: pytest.MonkeyPatch, full: tuple[str, ...], fault: Exception) -> list[str]:
    """Devices on which the Engine was asked to draw; those in `full` have no room. meta stands for an accelerator."""
    asked: list[str] = []
    draw = Engine.pictures

    def pictures(self: Engine, recipes: Any) -> Any:
        asked.append(self.library.placement.device.type)
        if asked[-1] in full:
            raise fault
        return draw(self, recipes)

    def choose(device: Any, dtype: str) -> devices.Placement:
        assert dtype == "float32"
        return devices.Placement(torch.device(device), torch.float32, channels_last=True)

    monkeypatch.setattr(Engine, "pictures", pictures)
    monkeypatch.setattr(devices, "choose", choose)
    monkeypatch.setattr(memory, "default_budget", lambda _: 2**30)
    return asked


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        ResourceError("a picture needs much"),
        RuntimeError("allocate memory"),
    ],
)
def test_a_result_is_tried_on_the_run_s_device_and_where_that_is_full_on_the_cpu(
    fault: Exception, sd1: LoadedCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, lora = random_lora(sd1)
    deltas, there = lora.deltas(dict(unet.named_parameters())), torch.device("meta")
    asked = crowded(monkeypatch, ("meta",), fault)
    assert export.adapter(deltas, tmp_path / "result", sd1, task="style", device=there).is_file()
    assert asked == ["meta", "cpu"]
    monkeypatch.undo()
    asked = crowded(monkeypatch, ("meta", "cpu"), fault)
    with pytest.raises(TrainingError, match="memory ran out while what was trained was tried, and nothing is written"):
        export.adapter(deltas, tmp_path / "none", sd1, task="style", device=there)
    assert asked == ["meta", "cpu"]
    assert not (tmp_path / "none").exists()
    monkeypatch.undo()
    crowded(monkeypatch, ("cpu",), RuntimeError("a fault of ours"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        export.adapter(deltas, tmp_path / "none", sd1, task="style", device=CPU)


def test_targets(sd1: LoadedCheckpoint) -> None:
    unet = sd1.unet()
    everything, attention = chosen(unet, ALL), chosen(unet, ["attention"])
    assert set(attention) < set(everything)
    assert all(name.split(".")[-1] in {"to_q", "to_k", "to_v", "0"} for name in attention)
    assert chosen(unet, ["mid_block.*.to_q"]) == [n for n in attention if n.startswith("mid_block") and "to_q" in n]
    with pytest.raises(TrainingError, match="'nothing' names no layer"):
        chosen(unet, ["attention", "nothing"])
    with pytest.raises(TrainingError, match=r"rank 65 is above what .* has"):
        Lora(lcm.fresh(sd1, CPU), rank=65, alpha=None, targets=ALL)
