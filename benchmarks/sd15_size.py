"""How long does a picture of 512x512 take on a model of Stable Diffusion 1.5's size?

The weights are random (no hub is needed), the architecture and the arithmetic are SD 1.5's (860 M in the UNet).
A step and the decode are timed one by one, in diffusers in float32 as it comes, in bfloat16, and in Laur.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import arguments, interleaved, report, summary

from laur.core.pytorch.cpu import accelerate, accelerate_decoder


def unet(dtype: torch.dtype) -> Any:
    """SD 1.5's UNet, random."""
    from diffusers import UNet2DConditionModel

    module = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return module.to(dtype).eval().requires_grad_(False)


def vae(dtype: torch.dtype) -> Any:
    """SD 1.5's autoencoder, random."""
    from diffusers import AutoencoderKL

    module = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    return module.to(dtype).eval().requires_grad_(False)


@torch.inference_mode()
def main() -> None:
    """Measure and report."""
    found = arguments(__doc__.splitlines()[0])
    torch.manual_seed(0)
    full = unet(torch.float32)
    half = unet(torch.bfloat16)
    ours = accelerate(half)
    sample, context, time = torch.randn(1, 4, 64, 64), torch.randn(1, 77, 768), torch.tensor([499.0])
    low, low_context = sample.bfloat16().contiguous(memory_format=torch.channels_last), context.bfloat16()
    steps = {
        "diffusers_float32": lambda: full(sample, time, context, return_dict=False),
        "diffusers_bfloat16": lambda: half(low, time, low_context, return_dict=False),
        "laur_bfloat16": lambda: ours(low, time, low_context),
    }
    step = summary(interleaved(steps, found.repeats), "diffusers_float32")
    full_vae, half_vae = vae(torch.float32), vae(torch.bfloat16)
    fast = accelerate_decoder(half_vae)
    decodes = {
        "diffusers_float32": lambda: full_vae.decode(sample, return_dict=False),
        "diffusers_bfloat16": lambda: half_vae.decode(low, return_dict=False),
        "laur_bfloat16": lambda: fast(low),
    }
    decode = summary(interleaved(decodes, found.repeats), "diffusers_float32")
    picture = {name: 4 * step[name]["median_s"] + decode[name]["median_s"] for name in step}
    report(
        "sd15_size",
        __doc__.splitlines()[0],
        {"unet_step": step, "vae_decode": decode, "four_steps_and_decode_s": picture},
        found.out,
    )


if __name__ == "__main__":
    main()
