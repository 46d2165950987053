"""Which device, precision and memory format to use when the user does not say."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from laur.core.errors import NotFoundError, RecipeError

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how networks run."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool

    @property
    def dtype_name(self) -> str:
        """float32, bfloat16 or float16."""
        return str(self.dtype).removeprefix("torch.")


def choose(
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    channels_last: bool | None = None,
) -> Placement:
    """The named device and precision, or the best that this machine has.

    CPU: bfloat16 where the processor computes in it, else float32; CUDA and MPS: float16. Convolutions on the CPU and
    on CUDA in half precision run fastest in channels_last.
    """
    place = _device(device)
    precision = _dtype(dtype) or _best_dtype(place)
    if place.type == "cpu" and precision is torch.float16:
        raise RecipeError("float16 is not computed natively by CPUs; use --dtype bfloat16 or float32")
    if channels_last is None:
        channels_last = place.type == "cpu" or (place.type == "cuda" and precision is not torch.float32)
    return Placement(place, precision, channels_last)


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX; on Arm, the bf16 extension)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if any(getattr(torch.cpu, name, lambda: False)() for name in probes):
        return True
    features = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    return "SVE" in features and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # pyright: ignore[reportPrivateUsage]


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise NotFoundError(f"no device {device!r}; use cpu, cuda, cuda:1 or mps") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise NotFoundError("device cuda: this machine has no usable CUDA GPU; leave --device out or use cpu")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise NotFoundError(
            f"device {place}: this machine has {torch.cuda.device_count()} CUDA GPUs; use a lower number"
        )
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise NotFoundError("device mps: this machine has no usable Apple GPU; leave --device out or use cpu")
    if place.type not in {"cpu", "cuda", "mps"}:
        raise NotFoundError(f"device {place.type} is not supported; use cpu, cuda or mps")
    return place


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    name = ALIASES.get(dtype, dtype)
    if name not in DTYPES:
        raise NotFoundError(f"no dtype {dtype!r}; use float32, bfloat16 or float16")
    return DTYPES[name]


def _best_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    return torch.float16
