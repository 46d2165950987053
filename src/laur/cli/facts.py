"""What `laur inspect` finds out, as plain values."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import LaurError, NotFoundError
from laur.render import registry

if TYPE_CHECKING:
    from laur.core.recipe import Recipe
    from laur.optimize import BaseAdapter
    from laur.optimize.lora_file import LoraFile
    from laur.render.metadata import Found

METADATA_SHOWN = 200
"""Characters of each value of a LoRA's metadata: training scripts write whole captions there."""
CHECKPOINT_KEYS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
"""How single-file checkpoints of Stability's layout name their tensors."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one file or name."""

    kind: str
    """checkpoint, adapter or picture."""
    values: dict[str, Any]
    """Plain, for JSON and for a table."""


def find_facts(name: str, *, model: str | None, prediction: str | None) -> Facts:
    """Of a path, or of the name of a model or adapter. Raises LaurError, one line, for what is none of them."""
    from laur.optimize.catalogue import find, known
    from laur.pipeline.loading import names

    path = Path(name).expanduser()
    if name in {entry.name for entry in names.known()}:
        return Facts("checkpoint", _checkpoint(name, prediction))
    if name in {entry.name for entry in known()}:
        return Facts("adapter", _adapter(find(name), model))
    if not path.exists():
        raise NotFoundError(f"there is no file {name}, and no model or adapter of that name")
    if path.is_file() and registry.knows(path.suffix):
        return Facts("picture", _picture(path))
    if _is_adapter(path):
        return Facts("adapter", _adapter(find(name), model))
    return Facts("checkpoint", _checkpoint(name, prediction))


def _checkpoint(name: str, prediction: str | None) -> dict[str, Any]:
    from laur.pipeline.loading.load import load

    info = load(name, prediction=prediction).info
    side = info.native_size
    return {
        "path": str(info.path),
        "family": str(info.family),
        "prediction": info.prediction,
        "native_size": f"{side}x{side}",
        "schedule": {key: value for key, value in asdict(info.schedule).items() if value is not None},
        "spacing": info.spacing,
        "latents": f"{info.latent_channels} channels, 1/{info.downscale} of a side, scale {info.latent_scale:g}"
        + (f", shift {info.latent_shift:g}" if info.latent_shift else ""),
        "lcm": info.is_lcm,
        "guidance_embedding": info.guidance_embedding,
        "parts": _parts(name),
        "sha256": info.sha256,
        "autov2": info.autov2,
        "recommends": {key: value for key, value in asdict(info.defaults).items() if value not in (None, ())},
    }


def _parts(name: str) -> dict[str, str]:
    """Class, size and precision of each network. Its weights are mapped, not read."""
    from laur.pipeline.loading.names import locate
    from laur.pipeline.loading.source import open_source

    source = open_source(locate(name))
    parts: dict[str, str] = {}
    for component in source.components:
        tensors = source.tensors(component).values()
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        millions = sum(tensor.numel() for tensor in tensors) / 1e6
        parts[component] = f"{source.class_name(component)}, {millions:,.1f} M parameters, {', '.join(dtypes)}"
    return parts


def _is_adapter(path: Path) -> bool:
    """By what is in it: a folder's files, or the names of a file's tensors."""
    from laur.optimize.catalogue import file_of
    from laur.optimize.learned import is_learned_word
    from laur.optimize.names import parse
    from laur.optimize.safetensors_file import read_header

    if path.is_dir():
        try:
            return file_of(str(path)).is_file() and not (path / "model_index.json").exists()
        except LaurError:
            return False
    if path.suffix.lower() != ".safetensors":
        return False
    tensors = read_header(path).tensors
    if is_learned_word(path):
        return True
    return not any(key.startswith(CHECKPOINT_KEYS) for key in tensors) and any(map(parse, tensors))


def _picture(path: Path) -> dict[str, Any]:
    from laur.render.metadata import read

    found = read(path)
    height, width = found.pixels.shape[:2]
    values: dict[str, Any] = {"path": str(path), "format": found.format, "size": f"{width}x{height}"}
    values["recipe"] = _recipe(found.recipe)
    if found.recipe is not None:
        values["recipe_hash"] = found.recipe.hash
    values["made_by"] = found.provenance.to_dict() if found.provenance is not None else None
    values["parameters"] = found.parameters
    values["digital_source_type"] = found.source_type
    values["pixels"] = _state(found)
    return values


def _recipe(recipe: Recipe | None) -> dict[str, Any] | None:
    """What it says; fields that are left open or empty say nothing."""
    if recipe is None:
        return None
    return {name: value for name, value in recipe.to_dict().items() if value not in (None, "", ())}


def _state(found: Found) -> str:
    if found.problem is not None:
        return found.problem
    if found.recorded_sha256 is None:
        return "it does not say how it was made" if found.parameters is None else "made by another program than Laur"
    if found.untouched:
        return "exactly those that were drawn"
    lossy = registry.knows(found.format) and not registry.get(found.format).lossless
    return (
        f"those that were drawn, or near them, as {found.format} keeps them"
        if lossy
        else "changed since they were drawn"
    )


def _adapter(adapter: BaseAdapter, model: str | None) -> dict[str, Any]:
    from laur.optimize.learned import LearnedWord
    from laur.optimize.lora_file import LoraFile

    recommends = {key: value for key, value in asdict(adapter.recommends).items() if value not in (None, (), False)}
    values: dict[str, Any] = {"name": adapter.name, "sha256": adapter.sha256, "autov2": adapter.sha256[:10]}
    if isinstance(adapter, LoraFile):
        values |= _lora(adapter)
    elif isinstance(adapter, LearnedWord):
        values |= {"path": str(adapter.path), "word": adapter.word, "vectors": adapter.inversion.sizes}
    else:
        values |= {"class": f"{type(adapter).__module__}.{type(adapter).__qualname__}"}
    values["recommends"] = recommends
    if model is not None:
        values["fits"] = _fit(adapter, model)
    return values


def _lora(adapter: LoraFile) -> dict[str, Any]:
    info = adapter.info
    ranks = list(info.ranks)
    return {
        "path": str(info.path),
        "bytes": info.path.stat().st_size,
        "layout": info.layout,
        "made_for": info.made_for,
        "rank": ranks[0] if len(ranks) == 1 else ranks,
        "layers": dict(info.layers),
        "kinds": dict(info.kinds),
        "left": dict(Counter(info.left.values())),
        "dtypes": list(info.dtypes),
        "metadata": {key: _short(value) for key, value in info.metadata.items()},
    }


def _short(text: str) -> str:
    return text if len(text) <= METADATA_SHOWN else f"{text[:METADATA_SHOWN]}… ({len(text):,} characters)"


def _fit(adapter: BaseAdapter, model: str) -> str:
    """Where its layers go in a model, or why they do not."""
    from laur.optimize.lora_file import LoraFile
    from laur.optimize.merge import layer_shapes
    from laur.pipeline.loading.load import load

    loaded = load(model)
    layers = layer_shapes(loaded.unet(), "unet")
    for part in loaded.text_parts():
        layers |= layer_shapes(part.model, part.name)
    try:
        if isinstance(adapter, LoraFile):
            return f"{model}: {adapter.coverage(layers)}"
        adapter.check(layers)
    except LaurError as error:
        return f"{model}: no; {error}"
    return f"{model}: yes"
