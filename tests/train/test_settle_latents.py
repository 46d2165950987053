"""The script that brings an autoencoder's latents to another's means and deviations."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from diffusers import AutoencoderTiny

from helpers.scripts import script

SMALL = 0.1


@pytest.fixture(scope="module", name="script")
def loaded() -> ModuleType:
    return script("settle_latents")


def autoencoder(seed: int) -> AutoencoderTiny:
    torch.manual_seed(seed)
    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    return AutoencoderTiny(**widths, **blocks).eval()  # type: ignore[arg-type]


def test_latents_take_the_moments_and_mean_the_same(script: ModuleType) -> None:
    vae = autoencoder(1)
    with torch.no_grad():  # small latents, which the decoder's tanh hardly bends
        vae.encoder.layers[-1].weight.mul_(SMALL)  # type: ignore[union-attr,operator]
        vae.encoder.layers[-1].bias.mul_(SMALL)  # type: ignore[union-attr,operator]
    pictures = torch.rand(2, 3, 128, 128) * 2 - 1
    wanted = torch.tensor([0.03, -0.02, 0.0, 0.01]), torch.tensor([0.02, 0.03, 0.01, 0.02])
    with torch.inference_mode():
        before = vae.decode(vae.encode(pictures).latents).sample  # vae() would round its latents
    found = script.moments(vae, pictures)
    assert (found[1] - wanted[1]).abs().max() > 1e-3  # there is something to do
    script.settle(vae, *found, wanted)
    for now, goal in zip(script.moments(vae, pictures), wanted, strict=True):
        assert now == pytest.approx(goal, abs=1e-5)
    with torch.inference_mode():
        after = vae.decode(vae.encode(pictures).latents).sample
    inside = (..., slice(48, -48), slice(48, -48))  # zeros around the latents mean another colour now
    varies = before[inside].std((2, 3), keepdim=True)  # of each picture's channels
    assert ((after - before)[inside].abs() < 0.02 * varies).all()
