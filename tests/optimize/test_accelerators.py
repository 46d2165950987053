"""Published accelerators are known by their files' names, and styles with like names are not taken for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from lora_kit import write

from laur.optimize import Recommendation
from laur.optimize.accelerators import CARDS, LCM_LORA, recognise, trailing
from laur.optimize.catalogue import find
from laur.optimize.lcm_lora import from_json

FOUR = (999, 749, 499, 249)
EULER = {"sampler": "euler", "trailing": True, "accelerates": True}

PUBLISHED = {
    "lcm-lora-sdxl/pytorch_lora_weights": LCM_LORA,
    "Hyper-SDXL-4steps-lora": Recommendation(steps=4, guidance=1.0, timesteps=FOUR, **EULER),
    "Hyper-SD15-2steps-lora": Recommendation(steps=2, guidance=1.0, timesteps=(999, 499), **EULER),
    "Hyper-SD15-1step-lora": Recommendation(sampler="tcd", steps=1, guidance=1.0, eta=1.0, accelerates=True),
    "Hyper-SDXL-8steps-CFG-lora": Recommendation(steps=8, guidance=5.0, timesteps=trailing(8), **EULER),
    "Hyper-SD15-12steps-CFG-lora": Recommendation(steps=12, guidance=5.0, timesteps=trailing(12), **EULER),
    "sdxl_lightning_4step_lora": Recommendation(steps=4, guidance=1.0, timesteps=FOUR, **EULER),
    "sdxl_lightning_8step_lora": Recommendation(steps=8, guidance=1.0, timesteps=trailing(8), **EULER),
    "dmd2_sdxl_4step_lora_fp16": Recommendation(
        sampler="lcm", steps=4, guidance=1.0, timesteps=FOUR, trailing=True, accelerates=True
    ),
    "pcm_sdxl_smallcfg_2step_converted": Recommendation(steps=2, guidance=1.0, timesteps=(999, 499), **EULER),
    "pcm_sd15_normalcfg_8step_converted": Recommendation(steps=8, guidance=4.5, timesteps=trailing(8), **EULER),
    "pcm_sdxl_lcmlike_lora_converted": LCM_LORA,
    "TCD-SDXL-LoRA/pytorch_lora_weights": Recommendation(
        sampler="tcd", steps=4, guidance=1.0, eta=0.3, accelerates=True
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_known_by_name(name, tmp_path):
    state = {"unet.x.lora_A.weight": torch.ones(2, 4), "unet.x.lora_B.weight": torch.ones(4, 2)}
    path = tmp_path / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    assert find(str(write(path, state))).recommends == PUBLISHED[name]
    # renamed: known by its metadata
    title = {"modelspec.title": name.split("/")[0]}
    assert find(str(write(tmp_path / "renamed.safetensors", state, title))).recommends == PUBLISHED[name]


@pytest.mark.parametrize(
    "name",
    [
        "lightning-bolt-style",
        "sdxl_lightning_strikes",
        "hyperrealism",
        "hypersdetail",
        "pcmark",
        "notcd",
        "dmd20",
        "ink",
        "Ink wash, works with LCM",
        "ink_for_lcm",
        "ink (with or without TCD)",
        "LCM-compatible oils",
        "ink_hyper-sd_friendly",
        "for use with LCM",
    ],
)
def test_other_names_are_not_taken_for_them(name):
    assert recognise([name]) is None


@pytest.mark.parametrize("name", ["LCM LoRA for SDXL", "lcm_lora_with_xformers", "sd15-lcm-lora", "my-LCM"])
def test_what_an_accelerator_is_for_does_not_hide_it(name):
    assert recognise([name]) == (CARDS[-1], LCM_LORA)


@pytest.mark.parametrize(
    "metadata",
    [
        {"modelspec.tags": "style, ink, lcm"},
        {"ss_training_comment": "works with LCM and TCD; 4 steps"},
        {"modelspec.title": "Ink wash, works with LCM"},
        {"modelspec.description": "LCM"},
    ],
)
def test_a_style_that_speaks_of_an_accelerator_stays_one(metadata, tmp_path):
    state = {"unet.x.lora_A.weight": torch.ones(2, 4), "unet.x.lora_B.weight": torch.ones(4, 2)}
    path = write(tmp_path / "wash.safetensors", state, {"modelspec.trigger_phrase": "ink wash, grey", **metadata})
    assert find(str(path)).recommends == Recommendation(trigger_words=("ink wash", "grey"))


def test_an_accelerator_keeps_its_trigger_words(tmp_path):
    state = {"unet.x.lora_A.weight": torch.ones(2, 4), "unet.x.lora_B.weight": torch.ones(4, 2)}
    path = write(tmp_path / "ink-lcm.safetensors", state, {"modelspec.trigger_phrase": "ink wash"})
    assert find(str(path)).recommends == replace(LCM_LORA, trigger_words=("ink wash",))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7, 8, 12, 16])
def test_trailing_timesteps_are_those_of_diffusers(steps):
    scheduler = EulerDiscreteScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert trailing(steps) == tuple(int(t) for t in scheduler.timesteps)


def test_every_card_says_where_it_comes_from():
    assert len({card.name for card in CARDS}) == len(CARDS)
    assert all(card.source.startswith("hub: ") for card in CARDS)


def test_eta_and_trailing_are_read_from_a_file():
    said = from_json('{"sampler": "tcd", "eta": 1, "trailing": true, "accelerates": true}', "x")
    assert said == Recommendation(sampler="tcd", eta=1.0, trailing=True, accelerates=True)


def test_what_a_file_says_beyond_that_is_passed_over():
    """Also a weight, which files of earlier versions may have and nothing ever took."""
    assert from_json('{"sampler": "lcm", "weight": 0.7, "later": [1]}', "x") == Recommendation(sampler="lcm")
