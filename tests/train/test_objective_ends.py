"""Distillation that goes from pure noise straight to what the teacher drew of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from literal_lcm import COUNT, CPU, Literal, conditions_of, disturbed, merged, some_batch

from helpers.tiny import tiny_folder
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.train.draws import Draws
from laur.train.objectives import lcm
from laur.train.objectives.consistency import LoraNetworks, WholeNetworks


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    family: str = request.param
    return load(str(tiny_folder(family, tmp_path_factory.mktemp("checkpoint") / family)))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    return load(str(tiny_folder("sd1", tmp_path_factory.mktemp("checkpoint") / "sd1")))


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
