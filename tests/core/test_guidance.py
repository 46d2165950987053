"""Guidance: diffusers' arithmetic, and a negative prompt that counts only above 1."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from laur.core.guidance import classifier_free, combine
from laur.core.plan import Combine


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("guidance", [1.5, 2.0, 7.5, 15.0])
@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.7, 1.0])
def test_classifier_free_guidance_is_diffusers(guidance: float, rescale: float) -> None:
    uncond, cond = rows(2)
    expected = uncond + guidance * (cond - uncond)
    if rescale:
        expected = rescale_noise_cfg(expected[None], cond[None], rescale)[0]
    mine = combine(rows(2), classifier_free(guidance, rescale))
    assert float((mine - expected).abs().max() / expected.abs().max()) < 1e-6


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_up_to_one_there_is_no_unconditional_row(guidance: float) -> None:
    one = classifier_free(guidance, 0.7)
    assert one == Combine(weights=(1.0,))
    torch.testing.assert_close(combine(rows(1), one), rows(1)[0], rtol=0, atol=0)


def test_full_rescale_gives_the_conditional_rows_deviation() -> None:
    result = combine(rows(2), classifier_free(9.0, 1.0))
    assert float(result.std()) == pytest.approx(float(rows(2)[1].std()), rel=1e-5)


def test_low_precision_rows_are_combined_in_float32_and_left_as_they_are() -> None:
    low = rows(3).bfloat16()
    before = low.clone()
    result = combine(low, Combine(weights=(0.25, 0.5, 0.25)))
    torch.testing.assert_close(result, torch.tensordot(torch.tensor([0.25, 0.5, 0.25]), low.float(), dims=1))
    assert torch.equal(low, before)
    combine(single := rows(1), Combine(weights=(2.0,)))
    assert torch.equal(single, rows(1))


def test_a_constant_prediction_does_not_become_nan() -> None:
    assert combine(torch.ones(2, 1, 2, 2), classifier_free(2.0, 1.0)).isfinite().all()


def test_rows_and_weights_must_match() -> None:
    with pytest.raises(ValueError, match="2 rows for 1 weights"):
        combine(rows(2), Combine(weights=(1.0,)))
