"""From a class, its config and weights to a network, without ever holding random weights.

The network is built without memory and the tensors become its parameters as they are (mapped from the file) or in the
dtype wanted. Every parameter must be given, in its shape: what from_pretrained would fill with random numbers is an
error here.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from laur.core.errors import CheckpointError
from laur.utils.imports import collector_paused

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from laur.pipeline.loading.source import Source

_MODULES = {
    # the modules themselves: the packages' own front doors are lazy, but these are the classes' homes
    "UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition",
    "AutoencoderKL": "diffusers.models.autoencoders.autoencoder_kl",
    "AutoencoderTiny": "diffusers.models.autoencoders.autoencoder_tiny",
    "CLIPTextModel": "transformers",
    "CLIPTextModelWithProjection": "transformers",
    "BertModel": "transformers",
    "CLIPTokenizer": "transformers",
    "BertTokenizer": "transformers",
}
_SPARE = re.compile(
    r"(?:^|\.)position_ids$|^pooler\.|^logit_scale$|^text_projection|^attn_mask$|^loss\.|^vision_model\.|^visual_projection"
)
"""Weights that files carry and that no picture depends on."""
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names in autoencoders saved by diffusers before 0.12."""


def assemble(source: Source, component: str, dtype: torch.dtype | None = None) -> nn.Module:
    """The network of one component, in eval mode and without gradients.

    `dtype` None keeps the weights as stored, 8-bit ones as bfloat16. Raises CheckpointError where weights are missing,
    left over or of another shape than the config says.
    """
    from laur.utils.empty_weights import EmptyWeights

    make = _maker(source.class_name(component), source.config(component))
    try:
        with EmptyWeights():
            module = make()
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{source.name}: the config of its {component} makes no network: {reason}") from None
    expected = module.state_dict()
    given = _named_alike(source.tensors(component), expected)
    _check(f"{source.name}: its {component}", expected, given)
    state = {name: _in_dtype(given[name], dtype) for name in expected}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def load_class(name: str) -> Any:
    """A model or tokenizer class of diffusers or transformers, by its name."""
    name = name.removesuffix("Fast")
    if name not in _MODULES:
        raise CheckpointError(f"class {name} is not one that Laur loads; known are {', '.join(_MODULES)}")
    with collector_paused():
        return getattr(importlib.import_module(_MODULES[name]), name)


def _maker(name: str, config: Mapping[str, Any]) -> Any:
    """A function that builds the network, from only those values of the config that its class knows."""
    kind = load_class(name)
    if hasattr(kind, "config_class") and _MODULES[name] == "transformers":
        options = {"add_pooling_layer": False} if name == "BertModel" else {}
        return lambda: kind(kind.config_class(**config), **options)
    known = inspect.signature(kind.__init__).parameters
    return lambda: kind(**{key: value for key, value in config.items() if key in known})


def _named_alike(given: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of other versions of the libraries made those of the network built here."""
    if any(".proj_attn." in name for name in given):
        for old, new in _OLD_ATTENTION.items():
            given = {name.replace(old, new): tensor for name, tensor in given.items()}
    wraps = any(name.startswith("text_model.") for name in expected)
    bare = {name.removeprefix("text_model.").removeprefix("bert."): tensor for name, tensor in given.items()}
    if not wraps:
        return bare if any(name in expected for name in bare) else given
    top = {"text_projection.weight"}
    return {name if name in top else f"text_model.{name}": tensor for name, tensor in bare.items()}


def _check(what: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing = [name for name in expected if name not in given]
    if missing:
        raise CheckpointError(
            f"{what} lacks {len(missing):,} of {len(expected):,} tensors, {missing[0]} for one; "
            "download it again or give a whole checkpoint"
        )
    for name, tensor in expected.items():
        if tensor.shape != given[name].shape:
            raise CheckpointError(
                f"{what} does not fit its config: {name} is {_by(given[name])} and should be {_by(tensor)}"
            )
    extra = [name for name in given if name not in expected and not _SPARE.search(name.removeprefix("text_model."))]
    if extra:
        raise CheckpointError(
            f"{what} has {len(extra):,} tensors more than its architecture, {extra[0]} for one; it is another model"
        )


def _in_dtype(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    import torch

    if not tensor.is_floating_point():
        return tensor
    if dtype is None:
        return tensor.to(torch.bfloat16) if tensor.itemsize == 1 else tensor
    return tensor.to(dtype)


def _by(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
