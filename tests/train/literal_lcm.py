"""Distillation transcribed word by word, with diffusers' arithmetic and separate networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

from laur.pipeline.loading.load import LoadedCheckpoint
from laur.train.batch import Batch, Conditions
from laur.train.draws import Draws
from laur.train.objectives.lora import Lora
from laur.train.objectives.networks import predict

CPU = torch.device("cpu")
COUNT = 12
"""Samples of a batch: with a fixed seed, boundary, last and ordinary draws are all among them."""


def some_batch(loaded: LoadedCheckpoint, keys: range = range(COUNT)) -> tuple[Batch, Draws]:
    """Latents and conditions of the family's shapes; a function of each key."""
    numbers = torch.tensor(list(keys))
    draws = Draws(5, numbers)
    unet = loaded.unet()
    width = unet.config["cross_attention_dim"]
    width = max(width) if isinstance(width, list | tuple) else width
    pooled = size_ids = None
    if loaded.info.family.is_xl:
        inside = unet.config["projection_class_embeddings_input_dim"]
        pooled = draws.normal("pooled", (inside - 6 * 256,))
        size_ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(len(numbers), 6)
    conditions = Conditions(draws.normal("context", (77, width)), None, pooled, size_ids)
    return Batch(0, numbers, draws.normal("latent", (4, 8, 8)), conditions), Draws(9, numbers)


def disturbed(lora: Lora) -> None:
    """Factors that matter, and a target that differs from them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in lora.layers.values():
            layer.up.normal_(std=0.1)
            assert layer.target_up is not None
            layer.target_up.copy_(layer.up + 0.05 * torch.randn_like(layer.up))


def merged(loaded: LoadedCheckpoint, lora: Lora, *, target: bool) -> Any:
    """A network of its own whose weights hold the factors."""
    unet = copy.deepcopy(loaded.unet()).float()
    for name, layer in lora.layers.items():
        up, down = (layer.target_up, layer.target_down) if target else (layer.up, layer.down)
        assert up is not None
        assert down is not None
        weight = unet.get_submodule(name).weight
        weight.data += lora.scale * (up.detach() @ down.detach()).view_as(weight)
    return unet


class Literal:
    """Algorithm 1 and algorithm 4 of arXiv 2310.04378, sample by sample, with diffusers' schedulers."""

    def __init__(self, loaded: LoadedCheckpoint) -> None:
        config = {**loaded_scheduler(loaded), "timestep_spacing": "trailing"}
        self.ddim = DDIMScheduler.from_config({**config, "set_alpha_to_one": False})
        self.lcm = LCMScheduler.from_config({**config, "original_inference_steps": 50})

    def f(self, unet: Any, x: Tensor, t: int, conditions: Conditions, w: Tensor | None = None) -> Tensor:
        """The consistency function by LCMScheduler's boundary and its own x0."""
        prediction = predict(unet, x, torch.tensor([t]), conditions, w)
        c_skip, c_out = self.lcm.get_scalings_for_boundary_condition_discrete(torch.tensor(t))
        return c_skip * x + c_out * self.x0(prediction, x, t)

    def x0(self, prediction: Tensor, x: Tensor, t: int) -> Tensor:
        """DDIMScheduler's."""
        alpha = self.ddim.alphas_cumprod[t]
        if self.ddim.config["prediction_type"] == "epsilon":
            return (x - (1 - alpha) ** 0.5 * prediction) / alpha**0.5
        return alpha**0.5 * x - (1 - alpha) ** 0.5 * prediction

    def ddim_step(self, prediction: Tensor, x: Tensor, t: int, earlier: int) -> Tensor:
        """One step of DDIMScheduler between two timesteps that its own grid need not hold."""
        count = self.ddim.config["num_train_timesteps"]
        self.ddim.num_inference_steps = count
        alpha_earlier = self.ddim.alphas_cumprod[earlier].clone()
        # the scheduler steps by one timestep: its table is given the wanted alpha there
        table = self.ddim.alphas_cumprod.clone()
        table[t - 1] = alpha_earlier
        self.ddim.alphas_cumprod, kept = table, self.ddim.alphas_cumprod
        found = self.ddim.step(prediction, t, x, eta=0.0).prev_sample
        self.ddim.alphas_cumprod = kept
        return found

    def path(self, say: Callable[[Tensor, int], Tensor], x: Tensor, timesteps: list[int]) -> Tensor:
        """Algorithm 2 of arXiv 2211.01095 (DPM-Solver++ 2M) along these timesteps to no noise, in float64."""
        bars = self.ddim.alphas_cumprod.double()
        x, before, last = x.double(), None, 0.0
        for t, after in pairwise([*timesteps, None]):
            x0 = self.x0(say(x.float(), t).double(), x, t)
            if after is None:
                return x0
            here, there = ((bars[n].sqrt(), (1 - bars[n]).sqrt()) for n in (t, after))
            h = (there[0] / there[1]).log() - (here[0] / here[1]).log()
            slope = x0 if before is None else x0 + (x0 - before) * h / (2 * last)
            x = there[1] / here[1] * x - there[0] * torch.expm1(-h) * slope
            before, last = x0, h
        raise AssertionError

    def noised(self, z: Tensor, noise: Tensor, t: int) -> Tensor:
        """DDIMScheduler's."""
        return self.ddim.add_noise(z, noise, torch.tensor([t]))  # pyright: ignore[reportArgumentType]


def loaded_scheduler(loaded: LoadedCheckpoint) -> dict[str, Any]:
    """The checkpoint's schedule in diffusers' words."""
    schedule = loaded.info.schedule
    return {
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.beta_schedule,
        "num_train_timesteps": schedule.num_train_timesteps,
        "rescale_betas_zero_snr": schedule.rescale_betas_zero_snr,
        "prediction_type": loaded.info.prediction,
        "clip_sample": False,
    }


def conditions_of(batch: Batch, place: int) -> Conditions:
    """One sample's."""
    assert batch.conditions is not None
    return batch.conditions.rows(torch.tensor([place]))
