"""Distillation that goes straight to where the teacher ends: from pure noise, and from latents of its own."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from literal_lcm import COUNT, CPU, Literal, conditions_of, disturbed, merged, some_batch
from torch import Tensor

from laur.core.errors import TrainingError
from laur.pipeline.loading.load import LoadedCheckpoint
from laur.train.batch import Batch, Conditions
from laur.train.conditions import unconditional
from laur.train.draws import Draws
from laur.train.objectives import lcm
from laur.train.objectives.consistency import LoraNetworks, WholeNetworks, draw_pair
from laur.train.objectives.networks import predict
from laur.train.objectives.paths import Paths


@pytest.mark.parametrize("ends", [0.5, 1.0])
def test_some_samples_go_from_pure_noise_to_what_the_teacher_drew_of_it(loaded: LoadedCheckpoint, ends: float) -> None:
    """Those by the formula, with a student of its own; the others as they are without them, whoever stands beside."""
    options = lcm.LcmLoraOptions(rank=4, skip=20, boundary=0.3, last=0.2, own=0.3, ends=ends)
    objective = lcm.build_lora(options, loaded, CPU)
    assert objective.paths_of == (3.5, 4.5)
    assert isinstance(objective.networks, LoraNetworks)
    disturbed(objective.networks.lora)
    plain, draws = some_batch(loaded)
    began = Draws(6, plain.keys).normal("began", (4, 8, 8))
    batch = replace(plain, noise=began, guidance=4.0)
    at_once = draws.uniform("whose path") < ends
    assert 0 < int(at_once.sum()) <= COUNT
    assert bool((~at_once).any()) == (ends < 1)
    student = merged(loaded, objective.networks.lora, target=False)
    literal = Literal(loaded)
    usual = lcm.build_lora(replace(options, ends=0.0), loaded, CPU)
    assert usual.paths_of is None
    usual.networks = objective.networks
    with torch.no_grad():
        found = objective.loss(batch, draws)
        losses: list[float] = []
        for i in range(COUNT):
            row = slice(i, i + 1)
            if at_once[i]:
                ended = literal.f(student, began[row], 999, conditions_of(batch, i))
                losses.append(float((ended - batch.latents[row]).square().mean()))
            else:
                one = replace(
                    plain, keys=plain.keys[row], latents=plain.latents[row], conditions=conditions_of(plain, i)
                )
                losses.append(float(usual.loss(one, draws[row]).total))
    assert float(found.total) == pytest.approx(sum(losses) / COUNT, rel=2e-4)


def test_a_whole_lcm_is_told_the_guidance_that_the_teacher_drew_with(sd1: LoadedCheckpoint) -> None:
    objective = lcm.build(lcm.LcmOptions(ends=1.0), sd1, CPU)
    assert isinstance(objective.networks, WholeNetworks)
    torch.manual_seed(0)
    torch.nn.init.normal_(objective.networks.model.time_embedding.cond_proj.weight)  # type: ignore[union-attr]
    plain, draws = some_batch(sd1)
    batch = replace(plain, noise=Draws(6, plain.keys).normal("began", (4, 8, 8)), guidance=8.0)
    t = torch.full((COUNT,), 999)
    told = batch.conditions
    assert batch.noise is not None and told is not None
    with torch.no_grad():
        loss = objective.loss(batch, draws).total
        said = [objective.networks.student(batch.noise, t, told, torch.full((COUNT,), w)) for w in (7.0, 8.0)]
        right, wrong = ((objective.f(v, batch.noise, t) - batch.latents).square().mean() for v in said)
    assert float(loss) == pytest.approx(float(right), rel=1e-5)
    assert float(loss) != pytest.approx(float(wrong), rel=1e-3)


def test_some_samples_go_from_their_own_latents_to_where_the_teacher_ends(loaded: LoadedCheckpoint) -> None:
    paths = 0.7
    options = lcm.LcmLoraOptions(rank=4, skip=20, boundary=0.1, last=0.2, own=0.3, paths=paths, path_steps=4)
    objective = lcm.build_lora(options, loaded, CPU)
    assert isinstance(objective.networks, LoraNetworks)
    assert objective.paths_of is None  # any set will do
    lora = objective.networks.lora
    disturbed(lora)
    batch, draws = some_batch(loaded)
    along = draws.uniform("whose end") < paths
    assert along.any()
    assert (~along).any()
    literal, teacher = Literal(loaded), copy.deepcopy(loaded.unet()).float()
    student, target = merged(loaded, lora, target=False), merged(loaded, lora, target=True)
    usual = lcm.build_lora(replace(options, paths=0.0), loaded, CPU)
    usual.networks = objective.networks
    noise, pair = draws.normal("noise", (4, 8, 8)), draw_pair(options, draws, 1000)
    w = 2.5 + draws.uniform("guidance")
    empty = unconditional(loaded, CPU)
    lengths = set()
    with torch.no_grad():
        found = objective.loss(batch, draws)
        losses: list[float] = []
        for i in range(COUNT):
            row, t, told = slice(i, i + 1), int(pair.t[i]), conditions_of(batch, i)
            if not along[i]:
                one = replace(batch, keys=batch.keys[row], latents=batch.latents[row], conditions=told)
                losses.append(float(usual.loss(one, draws[row]).total))
                continue
            z = torch.zeros(1, 4, 8, 8)
            for step, level in enumerate([999, 749, 499, 249]):
                if step and level <= t:
                    break
                fresh = draws.normal(f"noise of step {step}", (4, 8, 8))[row]
                z = literal.f(target, literal.noised(z, fresh, level), level, told)
            none = told.where(torch.ones(1, dtype=torch.bool), empty)

            def guided(x: Tensor, t: int, *, told: Conditions = told, none: Conditions = none, i: int = i) -> Tensor:
                cond, uncond = (predict(teacher, x, torch.tensor([t]), c) for c in (told, none))
                return cond + w[i] * (cond - uncond)

            count = min(t + 1, max(1, math.ceil(4 * (t + 1) / 1000)))
            lengths.add(count)
            x = literal.noised(z, noise[row], t)
            goal = literal.path(guided, x, [round(t * (1 - n / count)) for n in range(count)])
            losses.append(float((literal.f(student, x, t, told) - goal).square().mean()))
    assert len(lengths) > 1
    assert float(found.total) == pytest.approx(sum(losses) / COUNT, rel=2e-4)


def test_parts_and_steps_have_limits() -> None:
    with pytest.raises(TrainingError, match=r"path_steps is 0; it lies in 1\.\.100"):
        lcm.LcmLoraOptions(path_steps=0)
    with pytest.raises(TrainingError, match=r"paths is 1\.5; it lies in 0\.\.1"):
        lcm.LcmLoraOptions(paths=1.5)


class Collapsed:
    """Networks of which nothing is asked: f is replaced."""

    def student(self, x: Tensor, *_: Any) -> Tensor:
        """See Networks."""
        return torch.zeros_like(x)

    target = teacher = student


@pytest.mark.parametrize(("ends", "paths"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.4), (0.5, 0.4)])
def test_a_full_collapse_leaks_all_of_the_noise(
    ends: float, paths: float, sd1: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """f(x, t) = x shows 1, whatever part of the samples has a boundary."""
    options = lcm.LcmLoraOptions(rank=4, boundary=0.5, ends=ends, paths=paths, path_steps=1)
    objective = lcm.build_lora(options, sd1, CPU)
    objective.networks = Collapsed()  # type: ignore[assignment]
    objective.empty = Conditions(torch.zeros(1, 1, 1))
    monkeypatch.setattr(objective, "f", lambda _, x, t: x)
    keys = torch.arange(4000)
    draws = Draws(1, keys)
    z, noise = (draws.normal(name, (4, 4, 4)) for name in ("z", "began"))
    batch = Batch(0, keys, z, Conditions(torch.zeros(len(keys), 1, 1)), noise=noise, guidance=4.0)
    assert float(objective.loss(batch, draws).parts["leak"]) == pytest.approx(1.0, abs=0.1)


def test_paths_are_as_long_as_what_is_left(sd1: LoadedCheckpoint) -> None:
    paths = Paths(sd1.info, 12)
    assert paths.timesteps(0) == [0]
    assert paths.timesteps(1) == [1]
    assert paths.timesteps(999)[:3] == [999, 916, 832]
    assert [len(paths.timesteps(t)) for t in (83, 84, 499, 999)] == [2, 2, 6, 12]
    assert Paths(sd1.info, 100).timesteps(2) == [2]
    for t in range(0, 1000, 37):
        at = paths.timesteps(t)
        assert at == sorted(set(at), reverse=True)
        assert at[0] == t
