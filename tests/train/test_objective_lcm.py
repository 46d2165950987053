"""Distillation against a literal transcription of its algorithms, with diffusers' arithmetic and separate networks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import LCMScheduler
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline,
)
from literal_lcm import COUNT, CPU, Literal, conditions_of, disturbed, merged, some_batch

from laur.core.errors import TrainingError
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.train.batch import Conditions
from laur.train.draws import Draws
from laur.train.objectives import lcf, lcm, style
from laur.train.objectives.consistency import (
    ConsistencyOptions,
    Distance,
    LoraNetworks,
    WholeNetworks,
    distance,
    draw_pair,
)
from laur.train.objectives.networks import Diffusion, predict


def test_the_loss_is_algorithm_1(loaded: LoadedCheckpoint) -> None:
    options = lcm.LcmLoraOptions(rank=4, skip=20, boundary=0.3, last=0.2)
    objective = lcm.build_lora(options, loaded, CPU)
    assert isinstance(objective.networks, LoraNetworks)
    disturbed(objective.networks.lora)
    batch, draws = some_batch(loaded)
    with torch.no_grad():
        found = objective.loss(batch, draws)

    literal = Literal(loaded)
    teacher = copy.deepcopy(loaded.unet()).float()
    student, target = (merged(loaded, objective.networks.lora, target=kind) for kind in (False, True))
    pair = draw_pair(options, draws, loaded.info.schedule.num_train_timesteps)
    w = options.w_min + (options.w_max - options.w_min) * draws.uniform("guidance")
    noise = draws.normal("noise", (4, 8, 8))
    assert 0 < int(pair.is_last.sum()) < COUNT
    assert (pair.t == 999).any()
    empty = lcm.Distillation._empty(objective, CPU)
    losses: list[float] = []
    with torch.no_grad():
        for i in range(COUNT):
            told = conditions_of(batch, i)
            none = Conditions(empty.context, None, empty.pooled, told.size_ids)
            t, z = int(pair.t[i]), batch.latents[i : i + 1]
            x = literal.noised(z, noise[i : i + 1], t)
            cond, uncond = (predict(teacher, x, torch.tensor([t]), c) for c in (told, none))
            guided = cond + w[i] * (cond - uncond)
            if t < options.skip:
                goal = literal.x0(guided, x, t)
            else:
                earlier = literal.ddim_step(guided, x, t, t - options.skip)
                goal = literal.f(target, earlier, t - options.skip, told)
            losses.append(float((literal.f(student, x, t, told) - goal).square().mean()))
    assert float(found.total) == pytest.approx(sum(losses) / COUNT, rel=2e-4)


@pytest.mark.parametrize("whole", [False, True])
def test_fine_tuning_is_algorithm_4(loaded: LoadedCheckpoint, *, whole: bool) -> None:
    options = lcf.LcfOptions(rank=4, skip=20, boundary=0.3, last=0.2, whole=whole)
    unet = copy.deepcopy(loaded.unet()).float()
    networks: LoraNetworks | WholeNetworks
    if whole:
        networks = WholeNetworks(unet, None, decay=0.9)
        with torch.no_grad():
            for parameter in networks._target.parameters():
                parameter.mul_(1.01)
        student, target = unet, networks._target
    else:
        networks = LoraNetworks(unet, rank=4, alpha=None, targets=("attention", "conv"), decay=0.9)
        disturbed(networks.lora)
        student, target = (merged(loaded, networks.lora, target=kind) for kind in (False, True))
    objective = lcf.FineTuning(loaded, networks, Diffusion(loaded.info, CPU), options)
    batch, draws = some_batch(loaded)
    with torch.no_grad():
        found = objective.loss(batch, draws)

    literal = Literal(loaded)
    pair = draw_pair(options, draws, loaded.info.schedule.num_train_timesteps)
    noise = draws.normal("noise", (4, 8, 8))
    losses: list[float] = []
    with torch.no_grad():
        for i in range(COUNT):
            told, t, z = conditions_of(batch, i), int(pair.t[i]), batch.latents[i : i + 1]
            eps = noise[i : i + 1]  # one noise for both timesteps
            later = literal.f(student, literal.noised(z, eps, t), t, told)
            n = t - options.skip
            goal = z if n < 0 else literal.f(target, literal.noised(z, eps, n), n, told)
            losses.append(float((later - goal).square().mean()))
    assert float(found.total) == pytest.approx(sum(losses) / COUNT, rel=2e-4)


def test_slices_average_to_the_whole(sd1: LoadedCheckpoint) -> None:
    options = lcm.LcmLoraOptions(rank=4, boundary=0.3, own=0.4)
    objective = lcm.build_lora(options, sd1, CPU)
    with torch.no_grad():
        whole = objective.loss(*some_batch(sd1))
        slices = [objective.loss(*some_batch(sd1, range(i, i + 3))) for i in range(0, COUNT, 3)]
    assert float(whole.total) == pytest.approx(sum(float(s.total) for s in slices) / len(slices), rel=1e-5)
    leaks = [float(s.parts["leak"]) for s in slices]
    assert float(whole.parts["leak"]) == pytest.approx(sum(leaks) / len(leaks), rel=1e-4, abs=1e-6)


def test_only_factors_learn_and_the_target_follows(sd1: LoadedCheckpoint) -> None:
    objective = lcm.build_lora(lcm.LcmLoraOptions(rank=4, target_decay=0.9), sd1, CPU)
    assert isinstance(objective.networks, LoraNetworks)
    lora = objective.networks.lora
    objective.loss(*some_batch(sd1)).total.backward()
    learning = {name for name, p in objective.model.named_parameters() if p.requires_grad}
    assert learning == {f"{name}.{part}" for name in lora.layers for part in ("up", "down")}
    # the up factors begin at zero, so that only they have a gradient at first
    assert all(layer.up.grad is not None and layer.up.grad.abs().sum() > 0 for layer in lora.layers.values())
    layer = next(iter(lora.layers.values()))
    with torch.no_grad():
        layer.up.fill_(1.0)
    objective.updated(0)
    assert layer.target_up is not None
    assert torch.allclose(layer.target_up, torch.full_like(layer.up, 0.1))
    state = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    objective.updated(1)
    objective.load_state_dict(state)
    assert torch.allclose(layer.target_up, torch.full_like(layer.up, 0.1))


def test_own_latents_are_those_of_sampling(sd1: LoadedCheckpoint) -> None:
    objective = lcm.build_lora(lcm.LcmLoraOptions(rank=4, own=1.0), sd1, CPU)
    assert isinstance(objective.networks, LoraNetworks)
    disturbed(objective.networks.lora)
    batch, draws = some_batch(sd1, range(3))
    t = torch.tensor([999, 600, 100])
    assert batch.conditions is not None
    w = torch.full((3,), 3.0)
    found = lcm.own_latents(objective, batch.conditions, draws, t, w=w, shape=(4, 8, 8))
    literal, target = Literal(sd1), merged(sd1, objective.networks.lora, target=True)
    with torch.no_grad():
        for i, levels in enumerate(([999], [999, 749], [999, 749, 499, 249])):
            z = torch.zeros(1, 4, 8, 8)
            for step, level in enumerate(levels):
                noise = draws.normal(f"noise of step {step}", (4, 8, 8))[i : i + 1]
                z = literal.f(target, literal.noised(z, noise, level), level, conditions_of(batch, i))
            assert torch.allclose(found[i : i + 1], z, rtol=1e-3, atol=1e-3 * float(z.abs().max()))


def test_an_lcm_that_is_told_its_guidance(sd1: LoadedCheckpoint, tmp_path: Path) -> None:
    objective = lcm.build(lcm.LcmOptions(), sd1, CPU)
    assert isinstance(objective.networks, WholeNetworks)
    student: Any = objective.networks.model
    batch, _ = some_batch(sd1, range(2))
    assert batch.conditions is not None
    t, told = torch.tensor([500, 20]), batch.conditions
    with torch.no_grad():
        plain = predict(copy.deepcopy(sd1.unet()).float(), batch.latents, t, told)
        deaf = predict(student, batch.latents, t, told, torch.tensor([2.0, 14.0]))
        assert torch.allclose(plain, deaf, rtol=1e-4, atol=1e-4)
        student.time_embedding.cond_proj.weight.normal_()
        w = torch.tensor([2.0, 14.0])
        heard = predict(student, batch.latents, t, told, w)
        embedded = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w, 256)  # pyright: ignore[reportArgumentType]
        theirs = student(batch.latents, t, told.context, timestep_cond=embedded).sample
    assert torch.allclose(heard, theirs, rtol=1e-4, atol=1e-4)
    objective.loss(*some_batch(sd1)).total.backward()
    assert student.time_embedding.cond_proj.weight.grad.abs().sum() > 0
    weights = dict(student.named_parameters())
    folder = objective.export(weights, tmp_path / "result")
    pipeline = LatentConsistencyModelPipeline.from_pretrained(folder)
    assert pipeline.unet.config["time_cond_proj_dim"] == 256
    assert type(pipeline.scheduler) is LCMScheduler
    with pytest.raises(TrainingError, match="is an LCM already"):
        lcm.build(lcm.LcmOptions(), load(str(folder)), CPU)


def test_going_on_from_an_adapter(sd1: LoadedCheckpoint, tmp_path: Path) -> None:
    first = lcm.build_lora(lcm.LcmLoraOptions(rank=4), sd1, CPU)
    assert isinstance(first.networks, LoraNetworks)
    disturbed(first.networks.lora)
    weights = dict(first.model.named_parameters())
    path = first.export(weights, tmp_path / "result")
    more = lcm.build_lora(lcm.LcmLoraOptions(rank=6, alpha=3.0, adapter=str(path)), sd1, CPU)
    assert isinstance(more.networks, LoraNetworks)
    accelerated = style.build(style.StyleOptions(rank=4, accelerator=str(path)), sd1, CPU)
    assert accelerated.inputs == {"objective.accelerator": more.inputs["objective.adapter"]}
    batch, draws = some_batch(sd1)
    with torch.no_grad():
        for layer in first.networks.lora.layers.values():
            assert layer.target_up is not None
            layer.target_up.copy_(layer.up)
        told = float(first.loss(batch, draws).total)
        assert float(more.loss(batch, draws).total) == pytest.approx(told, rel=5e-3)  # the file holds halves
    with pytest.raises(TrainingError, match=r"has rank 4 at unet.* of rank 2 at most"):
        lcm.build_lora(lcm.LcmLoraOptions(rank=2, adapter=str(path)), sd1, CPU)
    with pytest.raises(TrainingError, match="not among the targets"):
        lcm.build_lora(lcm.LcmLoraOptions(rank=4, targets=("attention",), adapter=str(path)), sd1, CPU)


def test_thirty_updates_on_one_batch_learn(sd1: LoadedCheckpoint) -> None:
    objective = lcm.build_lora(lcm.LcmLoraOptions(rank=8), sd1, CPU)
    batch, draws = some_batch(sd1)
    optimiser = torch.optim.AdamW([p for p in objective.model.parameters() if p.requires_grad], lr=3e-3)
    losses: list[float] = []
    for update in range(30):
        loss = objective.loss(batch, draws).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.updated(update)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skip": 0}, "skip is 0; it lies in 1..500"),
        ({"own": 1.5}, "own is 1.5; it lies in 0..1"),
        ({"w_min": 5.0, "w_max": 2.0}, "guidance w runs from 5 to 2"),
        ({"boundary": 0.5, "last": 0.6}, "last is 0.6; it lies in 0..0.5"),
        ({"huber": 0.0}, "huber is 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        lcm.LcmLoraOptions(**options)


def test_two_parts_may_be_the_whole() -> None:
    for tenths in range(11):
        ConsistencyOptions(boundary=tenths / 10, last=(10 - tenths) / 10)


def test_pairs_are_where_they_should_be() -> None:
    options = ConsistencyOptions(skip=50, boundary=0.1, last=0.08)
    pair = draw_pair(options, Draws(1, torch.arange(20_000)), 1000)
    assert int(pair.t.min()) >= 5
    assert int(pair.t.max()) == 999
    assert float(pair.is_last.float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float((pair.t == 999).float().mean()) == pytest.approx(0.08 + 0.82 / 950, abs=0.01)
    apart = (pair.t - pair.earlier)[~pair.is_last]
    assert (apart == 50).all()


def test_distances_are_those_of_their_formulas() -> None:
    a, b = Draws(1, torch.arange(3)).normal("a", (4, 2, 2)), Draws(1, torch.arange(3)).normal("b", (4, 2, 2))
    d = (a - b).flatten(1).double()
    c = 0.3
    expected = {
        "squared": (d**2).mean(1),
        "huber": torch.where(d.abs() <= c, d**2 / 2, c * (d.abs() - c / 2)).mean(1),
        "pseudo_huber": ((d**2 + c**2).sqrt() - c).mean(1),
        "norm": ((d**2).mean(1) + c**2).sqrt() - c,
    }
    assert set(expected) == set(get_args(Distance))
    for name, each in expected.items():
        found = distance(ConsistencyOptions(distance=name, huber=c), a, b)  # type: ignore[arg-type]
        assert torch.allclose(found.double(), each, rtol=1e-5)
