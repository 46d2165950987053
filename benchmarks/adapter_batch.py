"""What do 16 requests with 16 different styles cost in one pass, against one style for all?

The whole batch is timed, four calls of the network: what is gathered for its rows is gathered once. Beside it, in one
run: PEFT's mixed batch (`adapter_names`) and diffusers with the adapter swapped for each request.
Styles are random factors of rank 16 over every linear and convolution of `mini`'s UNet; LCM-LoRA is merged. A mix is
two of them, each with a weight of its own.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import harness
import torch

ROWS, RANK, LATENT, STEPS = 16, 16, 32, 4

Style = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""(up, down) by layer."""


def styles(unet: torch.nn.Module, count: int) -> list[Style]:
    """(up, down) by layer."""
    from laur.optimize.merge import layer_shapes

    draw = torch.Generator().manual_seed(0)
    names = {name.removeprefix("unet."): s.weight for name, s in layer_shapes(unet, "unet").items()}
    return [
        {
            name: (
                torch.randn(shape[0], RANK, generator=draw) * 0.02,
                torch.randn(RANK, *shape[1:], generator=draw) * shape[1] ** -0.5,
            )
            for name, shape in names.items()
        }
        for _ in range(count)
    ]


def mix(
    one: Style,
    other: Style,
    weight: float,
) -> Style:
    """`weight` of one and what is left of the other."""
    return {
        name: (torch.cat((weight * up, (1 - weight) * other[name][0]), 1), torch.cat((down, other[name][1])))
        for name, (up, down) in one.items()
    }


def ours(library: Any, stage: Any, sets: list[Any]) -> Callable[[], object]:
    """The calls of the fast network for rows with these sets."""
    from laur.core.denoiser import Row

    denoiser = library.denoiser(stage.checkpoint, stage.adapters)
    draw = torch.Generator().manual_seed(1)
    rows = [
        Row(
            latent=torch.randn(4, LATENT, LATENT, generator=draw),
            timestep=499.0,
            context=torch.randn(77, 384, generator=draw),
            adapters=own,
        )
        for own in sets
    ]
    return lambda: [denoiser.predict(rows) for _ in range(STEPS)]


def theirs(unet: Any, found: list[Style]) -> dict[str, Callable[[], object]]:
    """PEFT over diffusers' module: one mixed batch, and the requests one after the other."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    unet.add_adapter = None
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=sorted(found[0]))
    names = [f"s{i}" for i in range(len(found))]
    for name, style in zip(names, found, strict=True):
        inject_adapter_in_model(config, unet, name)
        state = {}
        for layer, (up, down) in style.items():
            state[f"{layer}.lora_A.weight"] = down
            state[f"{layer}.lora_B.weight"] = up.view(*up.shape, *(1 for _ in down.shape[2:]))
        set_peft_model_state_dict(unet, state, name)
    unet.to(torch.bfloat16).eval()
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 4, LATENT, LATENT, generator=draw).to(torch.bfloat16)
    text = torch.randn(ROWS, 77, 384, generator=draw).to(torch.bfloat16)
    time = torch.full((ROWS,), 499.0)

    def activate(names: list[str]) -> None:
        for module in unet.modules():
            if hasattr(module, "set_adapter") and hasattr(module, "lora_A"):
                module.set_adapter(names)

    @torch.no_grad()
    def mixed() -> object:
        def hook(_: Any, args: Any, kwargs: Any) -> Any:
            return args, {**kwargs, "adapter_names": names}

        layers = [module for module in unet.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]
        handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
        try:
            return [unet(x, time, text).sample for _ in range(STEPS)]
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def swapped() -> object:
        for i, name in enumerate(names):
            activate([name])
            for _ in range(STEPS):
                unet(x[i : i + 1], time[:1], text[i : i + 1])
        return None

    return {"peft_adapter_names": mixed, "diffusers_swap_per_request": swapped}


def main() -> None:
    """Measure and report."""
    from laur.core.pytorch.rows.factors import Factors, RowSet
    from laur.core.recipe import Recipe
    from laur.pipeline.engine import Engine

    options = harness.arguments(__doc__ or "", repeats=5)
    engine = Engine("mini", dtype="bfloat16", device="cpu")
    stage = engine.resolve(Recipe(prompt="a fox", seed=1)).plan.stages[0]
    unet = engine.library.weights(stage.checkpoint).unet()
    found = styles(unet, ROWS)

    def row_set(style: Style) -> RowSet:
        def flat(down: torch.Tensor) -> torch.Tensor:
            return down.flatten(1) if down.shape[2:] in {(), (1, 1)} else down

        parts = {n: Factors(up.to(torch.bfloat16), flat(down).to(torch.bfloat16)) for n, (up, down) in style.items()}
        return RowSet(parts)

    sets = [row_set(style) for style in found]
    mixes = [row_set(mix(style, found[(place + 5) % ROWS], 0.3 + 0.03 * place)) for place, style in enumerate(found)]
    candidates: dict[str, Callable[[], object]] = {
        "one_adapter_for_all": ours(engine.library, stage, [sets[0]] * ROWS),
        "sixteen_adapters": ours(engine.library, stage, sets),
        "one_mix_for_all": ours(engine.library, stage, [mixes[0]] * ROWS),
        "sixteen_mixes": ours(engine.library, stage, mixes),
        "no_adapter": ours(engine.library, stage, [None] * ROWS),
    }
    candidates |= theirs(engine.library._unet(stage.checkpoint, stage.adapters), found)
    gc.collect()
    seconds = harness.interleaved(candidates, options.repeats)
    figures = {
        "batch": harness.summary(seconds, "one_adapter_for_all"),
        "sixteen_over_one": min(seconds["sixteen_adapters"]) / min(seconds["one_adapter_for_all"]),
        "sixteen_mixes_over_one": min(seconds["sixteen_mixes"]) / min(seconds["one_mix_for_all"]),
        "sixteen_over_none": min(seconds["sixteen_adapters"]) / min(seconds["no_adapter"]),
    }
    harness.report("adapter_batch", (__doc__ or "").splitlines()[0], figures, options.out)


if __name__ == "__main__":
    main()
