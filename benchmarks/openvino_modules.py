"""The same modules under OpenVINO in bfloat16, behind the very same Engine: the peer to be measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from laur.core.pytorch.decoder import to_uint8
from laur.core.pytorch.denoiser import TorchDenoiser
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine


class _Predict(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return self.unet(sample, timesteps, context, return_dict=False)[0]


class _Decode(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent, return_dict=False)[0]


def compiled(module: nn.Module, example: Sequence[Tensor], dynamic: Sequence[Sequence[int]]) -> Any:
    """The module in OpenVINO's CPU plugin, computing in bfloat16, two threads."""
    import openvino as ov

    model = ov.convert_model(module.eval(), example_input=tuple(example), input=[list(shape) for shape in dynamic])
    return ov.Core().compile_model(
        model,
        "CPU",
        {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())},
    )


class _Network:
    """A `Network` over compiled models, one for each batch size."""

    def __init__(self, unet: nn.Module) -> None:
        self._unet = unet
        self._models: dict[tuple[int, ...], Any] = {}

    def __call__(self, sample: Tensor, timesteps: Tensor, contexts: Sequence[Tensor], **_: Any) -> Tensor:
        context = torch.stack(list(contexts)).float()
        key = (*sample.shape, context.shape[1])
        if key not in self._models:
            example = (sample, timesteps, context)
            shapes = [sample.shape, timesteps.shape, context.shape]
            self._models[key] = compiled(_Predict(self._unet), example, shapes)
        inputs = [sample.contiguous().numpy(), timesteps.numpy(), context.numpy()]
        return torch.from_numpy(np.asarray(self._models[key](inputs)[0]))


class _Decoder:
    def __init__(self, vae: Any, scale: float) -> None:
        self._vae, self._scale = vae, scale
        self._models: dict[tuple[int, ...], Any] = {}
        self.vae = vae

    def decode(self, latents: Tensor) -> Tensor:
        pixels = []
        for latent in latents:
            z = (latent[None] / self._scale).contiguous()
            if z.shape not in self._models:
                self._models[z.shape] = compiled(_Decode(self._vae), (z,), [z.shape])
            pixels.append(to_uint8(torch.from_numpy(np.asarray(self._models[z.shape]([z.numpy()])[0]))))
        return torch.stack(pixels)


def openvino_engine() -> Engine:
    """An Engine of `mini` with LCM-LoRA whose UNet and decoder are OpenVINO's."""
    engine = Engine("mini", dtype="float32")
    stage = engine.resolve(Recipe(prompt="a fox")).plan.stages[0]
    library = engine.library
    plain = library.denoiser(stage.checkpoint, stage.adapters)
    unet = library._unet(stage.checkpoint, stage.adapters)
    decoder = library.decoder(stage.checkpoint)
    network = _Network(unet)
    swapped = TorchDenoiser(network, device=plain.device, dtype=torch.float32)
    for key, value in [(key, library._denoisers[key]) for key in library._denoisers]:
        if value is plain:
            library._denoisers[key] = swapped
    vae = library.weights(stage.checkpoint).vae().float()
    library._decoders[stage.checkpoint] = _Decoder(vae, decoder._scale)  # type: ignore[assignment]
    return engine
