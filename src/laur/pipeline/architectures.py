"""Layers of the known architectures, from the shipped configs: what an adapter is for is told without a checkpoint."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from laur.core.checkpoint import Family
from laur.core.errors import MismatchError
from laur.optimize.layers import CROSS_ATTENTION_KEYS
from laur.optimize.lora_file import LoraFile
from laur.pipeline.loading.architecture import configs_folder, shipped

if TYPE_CHECKING:
    from laur.optimize.base import BaseAdapter
    from laur.optimize.layers import LayerShape
    from laur.pipeline.loading.load import LoadedCheckpoint

SHIPPED = (Family.SD1, Family.SD2, Family.SDXL, Family.SSD1B, Family.SDXL_REFINER)
"""Tried in this order. SSD-1B's layers are some of SDXL's, under the same names."""
MINI = "mini"


@cache
def layers_of(family: Family) -> dict[str, LayerShape]:
    """Every linear and convolutional layer by canonical name. No weights are made."""
    import torch

    from laur.optimize.merge import layer_shapes
    from laur.pipeline.loading.assemble import load_class

    found: dict[str, LayerShape] = {}
    index = shipped(family, "model_index.json")
    for component in ("unet", "text_encoder", "text_encoder_2"):
        if not (configs_folder(family) / component).is_dir():
            continue
        kind = load_class(index[component][1])
        config = shipped(family, f"{component}/config.json")
        with torch.device("meta"):
            module = kind.from_config(config) if component == "unet" else kind(kind.config_class(**config))
        found |= layer_shapes(module, component)
    return found


def layers_of_checkpoint(loaded: LoadedCheckpoint) -> dict[str, LayerShape]:
    """Every layer that an adapter may change."""
    from laur.optimize.merge import layer_shapes

    found = layer_shapes(loaded.unet(), "unet")
    for part in loaded.text_parts():
        found |= layer_shapes(part.model, part.name)
    return found


def layers_for(adapter: BaseAdapter, model: str | None = None) -> tuple[str, dict[str, LayerShape]]:
    """The model of that name with its layers, or else the known architecture that the adapter was made for.

    Raises MismatchError where it fits none, with the nearest one's reason, and as `load` does.
    """
    if model is not None:
        from laur.pipeline.loading.load import load

        layers = layers_of_checkpoint(load(model))
        adapter.check(layers)
        return model, layers
    width = adapter.text_width if isinstance(adapter, LoraFile) else None
    reasons: list[str] = []
    for family in SHIPPED:
        if width is not None and shipped(family, "unet/config.json")["cross_attention_dim"] != width:
            continue
        try:
            adapter.check(layers_of(family))
        except MismatchError as error:
            reasons.append(str(error))
        else:
            found = Family.SSD1B if family is Family.SDXL and _is_for_ssd1b(adapter) else family
            return found.value, layers_of(found)
    try:
        return layers_for(adapter, MINI)
    except MismatchError as error:
        reason = reasons[0] if reasons else str(error)
        raise MismatchError(f"{reason}; or give the model it was made for with --model") from None


def _is_for_ssd1b(adapter: BaseAdapter) -> bool:
    """Whether an adapter that fits SDXL fits SSD-1B too and changes the cross-attention in every block that is left."""
    layers = layers_of(Family.SSD1B)
    try:
        changed = adapter.coverage(layers).placed if isinstance(adapter, LoraFile) else ()
    except MismatchError:
        return False
    return {name for name in layers if name.endswith(CROSS_ATTENTION_KEYS[0])} <= set(changed)
