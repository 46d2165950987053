"""How long is one UNet step and one decode of `mini`: plain, with packed weights, under OpenVINO? And does a batch pay?

256x256, bfloat16 where the processor has it, the same weights, one process, all candidates taking turns. OpenVINO is
optional (the `bench` extra). A batch of eight is given per picture.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from harness import arguments, interleaved, report, summary
from torch import Tensor

import laur.models
from laur.core.pytorch.cpu import accelerate, accelerate_decoder, supported

TOKENS = 77
BASELINE = "diffusers_fp32"


def quiet(run: Callable[[], Any]) -> Callable[[], Any]:
    """Without autograd, as any caller would."""

    def inside() -> Any:
        with torch.inference_mode():
            return run()

    return inside


def load(kind: type[Any], part: str, dtype: torch.dtype) -> Any:
    """A module of `mini`."""
    return kind.from_pretrained(laur.models.checkpoint_folder("mini"), subfolder=part, torch_dtype=dtype).eval()


def openvino(module: torch.nn.Module, inputs: Sequence[Tensor]) -> Callable[[], Any]:
    """A call of the module under OpenVINO in bfloat16."""
    from openvino_modules import compiled

    model = compiled(module, inputs, [x.shape for x in inputs])
    arrays = [x.numpy() for x in inputs]
    return lambda: model(arrays)


def step_candidates(rows: int) -> dict[str, Callable[[], Any]]:
    """One UNet step of `rows` pictures."""
    from openvino_modules import _Predict

    sample, times = torch.randn(rows, 4, 32, 32), torch.full((rows,), 499.0)
    contexts = list(torch.randn(rows, TOKENS, 384))
    low = torch.bfloat16
    plain, plain_low = (load(UNet2DConditionModel, "unet", dtype) for dtype in (torch.float32, low))
    found: dict[str, Callable[[], Any]] = {
        BASELINE: quiet(lambda: plain(sample, times, torch.stack(contexts))),
        "diffusers_bf16": quiet(lambda: plain_low(sample.to(low), times, torch.stack(contexts).to(low))),
    }
    for name, dtype in (("laur_fp32", torch.float32), ("laur_bf16", low)):
        if supported(dtype):
            net = accelerate(plain, dtype)
            found[name] = quiet(lambda net=net: net(sample, times, contexts))
    if importlib.util.find_spec("openvino"):
        found["openvino_bf16"] = openvino(_Predict(plain), (sample, times, torch.stack(contexts)))
    return found


def decode_candidates() -> dict[str, Callable[[], Any]]:
    """One decode of one picture."""
    from openvino_modules import _Decode

    latent, low = torch.randn(1, 4, 32, 32), torch.bfloat16
    plain, plain_low = (load(AutoencoderTiny, "vae", dtype) for dtype in (torch.float32, low))
    found: dict[str, Callable[[], Any]] = {
        BASELINE: quiet(lambda: plain.decode(latent)),
        "diffusers_bf16": quiet(lambda: plain_low.decode(latent.to(low))),
    }
    for name, dtype in (("laur_fp32", torch.float32), ("laur_bf16", low)):
        if supported(dtype):
            decode = accelerate_decoder(plain, dtype)
            found[name] = quiet(lambda decode=decode: decode(latent))
    if importlib.util.find_spec("openvino"):
        found["openvino_bf16"] = openvino(_Decode(plain), (latent,))
    return found


def main() -> None:
    """Measure and report."""
    question = " ".join(__doc__.split("\n\n")[0].split())
    found = arguments(question)
    figures: dict[str, Any] = {}
    steps = interleaved(step_candidates(1), found.repeats)
    decodes = interleaved(decode_candidates(), found.repeats)
    eight = interleaved(step_candidates(8), found.repeats)
    figures["step_batch_1"] = summary(steps, BASELINE)
    figures["step_batch_8"] = summary(eight, BASELINE)
    figures["decode"] = summary(decodes, BASELINE)
    pictures = {name: [4 * s + d for s, d in zip(steps[name], decodes[name], strict=True)] for name in steps}
    figures["four_steps_and_decode"] = summary(pictures, BASELINE)
    alone, together = (min(runs["laur_bf16" if "laur_bf16" in steps else "laur_fp32"]) for runs in (steps, eight))
    figures["batch_8_steps_a_second_over_batch_1"] = 8 * alone / together
    report("unet_step", question, figures, found.out)


if __name__ == "__main__":
    main()
