"""Settings and metadata of adapter files that nobody means well with: one line each, and no end of waiting."""

from __future__ import annotations

import json
import math

import pytest

from laur.core.errors import AdapterError
from laur.optimize.lcm_lora import from_json
from laur.optimize.names import Key
from laur.optimize.scales import DIFFUSERS_METADATA, peft_rank, peft_scale, peft_settings, scales_input

LAYER = Key("unet", "down_blocks.0.attentions.0.to_q", "down")


@pytest.mark.parametrize("text", ['{"steps": 1e999}', "[" * 100_000, '{"timesteps": 3}', "[]", "{"])
def test_recommendations_that_cannot_be_read(text: str) -> None:
    with pytest.raises(AdapterError, match="cannot be read; remove or correct it"):
        from_json(text, "x.safetensors")


def test_settings_that_are_no_object(tmp_path) -> None:
    with pytest.raises(AdapterError, match="as a JSON object"):
        peft_settings(tmp_path / "x.safetensors", {DIFFUSERS_METADATA: "[" * 100_000}, "diffusers")


def test_an_alpha_too_large_is_no_number() -> None:
    assert math.isnan(peft_scale(json.loads('{"unet.lora_alpha": 1' + "0" * 400 + "}"), LAYER, 4))


@pytest.mark.parametrize(
    ("pattern", "rank"),
    [
        ("to_q", 7),
        ("attentions.0.to_q", 7),
        ("o_q", 4),
        (r"attentions\\.\\d+\\.to_q".replace("\\\\", "\\"), 7),
        ("to_(q|k)", 7),
        ("to_k", 4),
        ("a{99999999999999999999}", 4),
        ("(", 4),
        ("((a|.)*)*x", 4),
        (".*.*.*.*.*.*.*.*.*x", 4),
        ("(.+)+x", 4),
    ],
)
def test_patterns_of_peft(pattern: str, rank: int) -> None:
    """Each is a name or a regular expression; what could run for ever is taken for a name."""
    settings = {"unet.r": 4, "unet.rank_pattern": {pattern: 7}}
    assert peft_rank(settings, LAYER) == rank


def test_which_side_ia3_scales_is_said_or_left_open() -> None:
    assert scales_input({}, LAYER) is None
    assert scales_input({"unet.feedforward_modules": ["to_q", 3]}, LAYER) is True
    assert scales_input({"unet.feedforward_modules": []}, LAYER) is False
    assert scales_input({"unet.feedforward_modules": 3}, LAYER) is None
