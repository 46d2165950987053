"""Adapters as files: the layout of diffusers and PEFT, and that of kohya's scripts, A1111 and ComfyUI.

What is written is read back bit for bit, factors and scales (see `exact_alpha`). Each layout holds what its programs
read: diffusers' LoRA and PEFT's DoRA; kohya's those of LyCORIS too. A kind that a layout has no words for is an
AdapterError, never left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from laur.core.errors import AdapterError
from laur.optimize.deltas import Delta, Dense, DoRA, Kronecker, LowRank, Scale
from laur.optimize.lcm_lora import RECOMMENDS
from laur.optimize.scales import DIFFUSERS_METADATA, DORA
from laur.optimize.sgm import sgm_names

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from torch import Tensor

    from laur.optimize.base import Recommendation

FORMATS = ("diffusers", "kohya")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_DORA_OF = {"diffusers": "peft", "kohya": "lycoris"}
_BIAS = ".bias"


def save(
    path: Path,
    deltas: Mapping[str, Delta],
    *,
    format: str,
    model_layers: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
    recommends: Recommendation | None = None,
    precision: str | None = None,
) -> None:
    """Write an adapter's file, whole or not at all. Arguments as those of `tensors`. Errors: AdapterError, OSError.

    `recommends` goes into the metadata, where every reader of Laur finds it whatever the file is called.
    """
    from safetensors.torch import save as to_bytes

    from laur.utils.files import atomic_write

    found, own = tensors(deltas, format=format, model_layers=model_layers, precision=precision)
    kept = {key: value for key, value in (metadata or {}).items() if key not in {DIFFUSERS_METADATA, DORA}}
    kept |= {"format": "pt", **own}
    if recommends is not None and (said := _plain(recommends)):
        kept[RECOMMENDS] = json.dumps(said, sort_keys=True)
    atomic_write(path, _with_sorted_metadata(to_bytes(found, metadata=kept)))


def tensors(
    deltas: Mapping[str, Delta], *, format: str, model_layers: Iterable[str] = (), precision: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The file's tensors and metadata.

    Args:
        deltas: by canonical name.
        format: one of FORMATS.
        model_layers: for kohya's format and an SDXL model: the canonical names of all its layers, so that the UNet's
            get the names that kohya's scripts write for SDXL (those of Stability's code).
        precision: one of PRECISIONS for all numbers; None keeps each as it is, bit for bit.
    """
    if format not in FORMATS:
        raise AdapterError(f"there is no adapter format {format!r}; there are {' and '.join(FORMATS)}")
    if not deltas:
        raise AdapterError("the adapter changes nothing; there is nothing to write")
    layers = {name.removesuffix(_BIAS) for name in deltas}
    pairs = [(layer, deltas.get(layer), deltas.get(layer + _BIAS)) for layer in sorted(layers)]
    if format == "diffusers":
        found = {key: tensor for pair in pairs for key, tensor in _in_diffusers(*pair).items()}
        biased = {layer.partition(".")[0] for layer, _, bias in pairs if bias is not None}
        metadata = _peft_metadata({name: delta for name, delta, _ in pairs if delta is not None}, biased)
    else:
        names = _kohya_names(layers, model_layers)
        found = {f"{names[p[0]]}.{role}": t for p in pairs for role, t in _in_kohya(*p).items()}
        metadata = {}
    metadata |= _dora_metadata(deltas, format)
    return {key: _stored(key, tensor, precision) for key, tensor in found.items()}, metadata


def _dora_metadata(deltas: Mapping[str, Delta], format: str) -> dict[str, str]:
    """Whose DoRA it is, where readers of the layout would take it for the other's."""
    meant = {delta.weighting for delta in deltas.values() if isinstance(delta, DoRA)}
    if len(meant) > 1:
        raise AdapterError("one file cannot hold PEFT's DoRA and LyCORIS's, whose weights differ; write two")
    odd = meant - {_DORA_OF[format]}
    return {DORA: odd.pop()} if odd else {}


def exact_alpha(scale: float, rank: int) -> Tensor:
    """The alpha that a reader divides by the rank to find this very scale: float32 where that does, else float64.

    For a scale that no float64 alpha gives, the nearest, one part in 2⁵² away.
    """
    # an alpha of 0 would be read as the rank; the least number above it becomes 0 when it is divided
    product = scale * rank or math.nextafter(0, 1)
    alpha = torch.tensor(product, dtype=torch.float32)
    if float(alpha) / rank == scale and float(alpha) != 0:
        return alpha
    near = (product, math.nextafter(product, math.inf), math.nextafter(product, -math.inf))
    exact = next((value for value in near if value / rank == scale), product)
    return torch.tensor(exact, dtype=torch.float64)


# -------------------------------------------------------------------------------- diffusers


def _in_diffusers(layer: str, delta: Delta | None, bias: Delta | None) -> dict[str, Tensor]:
    inner = delta.inner if isinstance(delta, DoRA) else delta
    if not isinstance(inner, LowRank) or inner.mid is not None:
        raise AdapterError(_no_words("diffusers", layer, delta or bias))
    name = _published(layer)
    found = {f"{name}.lora_A.weight": inner.down, f"{name}.lora_B.weight": inner.up}
    if isinstance(delta, DoRA):
        if delta.axis != 0:
            raise AdapterError(
                f"PEFT's DoRA has magnitudes of outputs, and {layer} has them of inputs; write it as kohya"
            )
        shape = (1, -1, *(1 for _ in inner.down.shape[2:])) if inner.down.ndim == 4 else (-1,)
        found[f"{name}.lora_magnitude_vector"] = delta.magnitude.view(shape)
    if bias is not None:
        if not isinstance(bias, Dense) or bias.scale != inner.scale:
            raise AdapterError(_no_words("diffusers", f"the bias of {layer}", bias))
        found[f"{name}.lora_B.bias"] = bias.difference
    return found


def _peft_metadata(deltas: Mapping[str, Delta], biased: Container[str]) -> dict[str, str]:
    """PEFT's settings, by component, as diffusers writes them; none where every scale is 1, as is then understood.

    `biased` are the components in which some second factor has a bias.
    """
    low = {name: delta.inner if isinstance(delta, DoRA) else delta for name, delta in deltas.items()}
    factors = {_published(name): delta for name, delta in low.items() if isinstance(delta, LowRank)}
    if all(delta.scale == 1 for delta in factors.values()):
        return {}
    settings: dict[str, Any] = {}
    for component in sorted({name.partition(".")[0] for name in factors}):
        # the end of a name, as PEFT looks for it, fits text encoders with and without an inner "text_model."
        start = f"{component}.text_model." if component.startswith("text_encoder") else f"{component}."
        begin = "^" if component == "unet" else ""
        own = {n.removeprefix(start): d for n, d in factors.items() if n.startswith(f"{component}.")}
        own = {n.removeprefix(f"{component}."): d for n, d in own.items()}
        alphas = {name: float(exact_alpha(delta.scale, delta.rank)) for name, delta in own.items()}
        rank = Counter(delta.rank for delta in own.values()).most_common(1)[0][0]
        alpha = Counter(alphas.values()).most_common(1)[0][0]
        values: dict[str, Any] = {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {begin + name: delta.rank for name, delta in own.items() if delta.rank != rank},
            "alpha_pattern": {begin + name: value for name, value in alphas.items() if value != alpha},
            "target_modules": sorted(own),
            "lora_bias": component in biased,
            "use_dora": any(isinstance(deltas[n], DoRA) for n in deltas if n.startswith(f"{component}.")),
        }
        settings |= {f"{component}.{key}": value for key, value in values.items()}
    return {DIFFUSERS_METADATA: json.dumps(settings, sort_keys=True)}


def _published(layer: str) -> str:
    """With the "text_model." that files have, whatever the installed version of transformers calls the layer."""
    component, _, name = layer.partition(".")
    bare = ("text_model.", "text_projection")
    inside = component.startswith("text_encoder") and not name.startswith(bare)
    return f"{component}.text_model.{name}" if inside else layer


# ------------------------------------------------------------------------------------ kohya


def _in_kohya(layer: str, delta: Delta | None, bias: Delta | None) -> dict[str, Tensor]:
    found = {} if delta is None else _kohya_weight(layer, delta)
    if isinstance(bias, Dense):
        found["diff_b"] = bias.difference if bias.scale == 1 else bias.difference.float() * bias.scale
    elif bias is not None:
        raise AdapterError(_no_words("kohya", f"the bias of {layer}", bias))
    return found


def _kohya_weight(layer: str, delta: Delta) -> dict[str, Tensor]:
    match delta:
        case LowRank(up=up, down=down, mid=mid):
            found = {"lora_up.weight": up, "lora_down.weight": down, "alpha": exact_alpha(delta.scale, delta.rank)}
            return found if mid is None else {**found, "lora_mid.weight": mid}
        case Kronecker(left=left, right=right, scale=1.0):
            return {"lokr_w1": left, "lokr_w2": right}
        case Kronecker(left=left, right=right):
            # whole factors have no scale in this format; left = left · identity has the rank that one needs
            alpha = exact_alpha(delta.scale, left.shape[1])
            unit = torch.eye(left.shape[1], dtype=left.dtype)
            return {"lokr_w1_a": left, "lokr_w1_b": unit, "lokr_w2": right, "alpha": alpha}
        case Dense(difference=difference, scale=scale):
            return {"diff": difference if scale == 1 else difference.float() * scale}
        case Scale(factor=factor, axis=axis):
            return {"weight": factor.double() - 1, "on_input": torch.tensor(axis)}
        case DoRA(inner=inner, magnitude=magnitude, axis=axis):
            sides = [1] * max(len(inner.made_for), 2)
            sides[axis] = -1
            return {**_kohya_weight(layer, inner), "dora_scale": magnitude.view(sides)}
        case _:
            raise AdapterError(_no_words("kohya", layer, delta))


def _kohya_names(layers: Iterable[str], model_layers: Iterable[str]) -> dict[str, str]:
    layers, model = set(layers), set(model_layers)
    xl = any(name.startswith("text_encoder_2.") for name in layers | model)
    unet = [name.removeprefix("unet.") for name in model if name.startswith("unet.")] if xl else []
    original = {f"unet.{name}": other for other, name in sgm_names(unet).items()}
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if xl else "lora_te_", "text_encoder_2": "lora_te2_"}
    found: dict[str, str] = {}
    for layer in layers:
        component, _, name = _published(layer).partition(".")
        found[layer] = prefixes[component] + original.get(layer, name).replace(".", "_")
    return found


# ----------------------------------------------------------------------------------- values


def _stored(key: str, tensor: Tensor, precision: str | None) -> Tensor:
    """Contiguous, of its own memory. Raises AdapterError where the wanted precision cannot hold it."""
    tensor = tensor.detach().cpu()
    if precision is not None and tensor.is_floating_point() and not key.endswith(".alpha"):
        if precision not in PRECISIONS:
            raise AdapterError(f"there is no precision {precision!r}; there are {', '.join(PRECISIONS)}")
        stored = tensor.to(PRECISIONS[precision])
        if not bool(torch.isfinite(stored).all()):
            raise AdapterError(f"{key} has numbers that {precision} cannot hold; write it as fp32 or bf16")
        tensor = stored
    return tensor.clone(memory_format=torch.contiguous_format)


def _with_sorted_metadata(data: bytes) -> bytes:
    """The same file with its metadata in order; the library's own order is random, and a file is known by its hash."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]])


def _no_words(format: str, layer: str, delta: Delta | None) -> str:
    what = type(delta.inner if isinstance(delta, DoRA) else delta).__name__
    if isinstance(delta, LowRank):
        what = "LoCon's three factors"
    cure = "write it as kohya, or with a rank" if format == "diffusers" else "merge it into the weights"
    return f"{layer} has a {what} difference, for which {format}'s format has no words; {cure}"


def _plain(recommends: Recommendation) -> dict[str, Any]:
    """What it says; what it leaves open is left out."""
    empty = type(recommends)()
    return {key: value for key, value in asdict(recommends).items() if value != getattr(empty, key)}
