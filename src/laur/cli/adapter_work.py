"""What `laur adapters inspect`, `convert`, `merge` and `extract` do, as plain values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import AdapterError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

    from laur.core.recipe import AdapterRef
    from laur.optimize.base import Recommendation
    from laur.optimize.deltas import Delta
    from laur.optimize.lora_file import LoraFile

SUFFIX = ".safetensors"


def coverage(name: str, model: str | None) -> dict[str, Any]:
    """Of one file: what it is, how many keys go where in the model it was made for, and what is left and why."""
    from laur.optimize.textual import TextualInversion, is_textual
    from laur.pipeline.architectures import layers_for

    path = _file(name)
    if is_textual(path):
        inversion = TextualInversion(path)
        return {"path": str(path), "kind": "textual inversion", "token": inversion.token, "vectors": inversion.sizes}
    adapter = _lora(name)
    info = adapter.info
    found, layers = layers_for(adapter, model)
    placed = adapter.coverage(layers)
    total = len(placed.keys) + len(placed.left)
    return {
        "path": str(info.path),
        "layout": info.layout,
        "model": found,
        "keys": total,
        "keys_placed": len(placed.keys),
        "layers": len(placed.placed),
        "where": dict(placed.components),
        "kinds": dict(placed.kinds),
        "blocks": _blocks(placed.placed),
        "ranks": list(info.ranks),
        "dtypes": list(info.dtypes),
        "left": dict(Counter(placed.left.values())),
        "left_keys": dict(placed.left),
        "recommends": _said(adapter),
    }


def convert(name: str, out: Path, *, format: str, model: str | None, precision: str | None) -> dict[str, Any]:
    """Write an adapter in another layout. The metadata and the recommendation go along."""
    from laur.optimize.write import save

    adapter = _lora(name)
    deltas, layers, warnings = _deltas(adapter, model)
    _write(
        save,
        out,
        deltas,
        format=format,
        model_layers=layers,
        metadata=adapter.metadata,
        recommends=adapter.recommends,
        precision=precision,
    )
    return {"path": str(out), "layers": len(deltas), "format": format, "warnings": warnings}


def merge(
    refs: Sequence[AdapterRef],
    out: Path,
    *,
    format: str,
    model: str | None,
    rank: int | None,
    precision: str | None,
) -> dict[str, Any]:
    """Write the weighted sum of adapters, of one rank where one is given, with the error that it costs."""
    from laur.optimize.algebra import matrix, ranks, rerank, total
    from laur.optimize.blocks import by_prefix
    from laur.optimize.blocks import terms as by_weight
    from laur.optimize.write import save

    terms: list[tuple[Mapping[str, Delta], float]] = []
    layers: list[str] = []
    added: list[LoraFile] = []
    warnings: list[str] = []
    for ref in refs:
        if not ref.acts_everywhere:
            raise AdapterError(f"{ref.name} cannot be merged for a part of the run or of the picture; leave that out")
        adapter = _lora(ref.name)
        added += [adapter] if ref.weight > 0 else []
        deltas, layers, left = _deltas(adapter, model)
        warnings += left
        terms += by_weight(deltas, ref.weight, by_prefix(ref.by_block or {}, layers))
    summed = total(terms)
    if not summed:
        raise AdapterError("all weights are 0; there is nothing to write")
    error, whole = 0.0, summed
    if rank is not None:
        summed, loss = rerank(summed, rank=rank)
        error = loss.error
    if precision is not None:
        wanted = ((name, matrix(name, delta)) for name, delta in whole.items())
        error = _stored_error(wanted, summed, precision)
    said = {"modelspec.title": out.stem, "laur.merged": ", ".join(map(_term, refs))}
    recommends, notes = _recommended(added)
    _write(
        save,
        out,
        summed,
        format=format,
        model_layers=layers,
        metadata=said,
        recommends=recommends,
        precision=precision,
    )
    facts = {"path": str(out), "layers": len(summed), "ranks": ranks(summed), "relative_error": error}
    return {**facts, "warnings": [*dict.fromkeys(warnings), *notes]}


def _recommended(adapters: Sequence[LoraFile]) -> tuple[Recommendation, list[str]]:
    """How their sum is to be sampled, as its accelerator is, with what calls each of them; and what to tell."""
    from dataclasses import replace

    from laur.optimize.base import Recommendation

    words = tuple(dict.fromkeys(word for adapter in adapters for word in adapter.recommends.trigger_words))
    fast = [adapter for adapter in adapters if adapter.recommends.accelerates]
    if not fast:
        return Recommendation(trigger_words=words), []
    ways = [replace(adapter.recommends, trigger_words=words) for adapter in fast]
    if all(way == ways[0] for way in ways):
        return ways[0], []
    names = " and ".join(dict.fromkeys(adapter.name for adapter in fast))
    return ways[0], [
        f"{names} are accelerators that are sampled in different ways; the file says that of {fast[0].name}"
    ]


def _stored_error(wanted: Iterable[tuple[str, Tensor]], deltas: Mapping[str, Delta], precision: str) -> float:
    """Relative error of what is stored in that precision."""
    from laur.optimize.algebra import distance, rounded
    from laur.optimize.write import PRECISIONS

    if precision not in PRECISIONS:
        raise AdapterError(f"there is no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    return distance(wanted, rounded(deltas, PRECISIONS[precision]))


def _term(ref: AdapterRef) -> str:
    blocks = "" if ref.by_block is None else f":{ref.by_block}"
    return f"{Path(ref.name).stem}:{ref.weight:g}{blocks}"


def extract(
    tuned: str,
    base: str,
    out: Path,
    *,
    format: str,
    rank: int | None,
    error: float | None,
    text: bool,
    precision: str | None,
) -> dict[str, Any]:
    """Write what a tuned checkpoint differs by from its base as a LoRA, with the error that it costs.

    Also how much of the difference lies in parameters that a LoRA does not change, such as norms and biases.
    """
    from laur.optimize.algebra import extract as difference
    from laur.optimize.algebra import ranks
    from laur.optimize.write import save
    from laur.pipeline.loading.load import load

    (ours, ours_left), (theirs, theirs_left) = _weights(tuned, text), _weights(base, text)
    deltas, loss = difference(ours, theirs, rank=rank, error=error)
    outside = _differences(ours_left, theirs_left)
    if not deltas and outside:
        raise AdapterError(
            f"{tuned} and {base} differ in {_named(outside)} alone, which a LoRA does not change; keep the whole model"
        )
    if not deltas:
        raise AdapterError(f"{tuned} and {base} have the same weights; there is nothing to extract")
    said = {"modelspec.title": out.stem, "laur.extracted": f"{Path(tuned).stem} - {Path(base).stem}"}
    layers = [name.removesuffix(".weight") for name in theirs]
    layers += [f"{part.name}." for part in load(base).text_parts()]  # their names hang on which encoders there are
    _write(save, out, deltas, format=format, model_layers=layers, metadata=said, precision=precision)
    lost = loss.error
    if precision is not None:
        wanted = ((name, ours[f"{name}.weight"].float() - theirs[f"{name}.weight"].float()) for name in deltas)
        lost = _stored_error(wanted, deltas, precision)
    facts = {"path": str(out), "layers": len(deltas), "ranks": ranks(deltas), "relative_error": lost}
    share = math.hypot(*outside.values()) / math.hypot(*outside.values(), *loss.there.values())
    told = (
        f"{_named(outside)} differ too, which a LoRA does not change: {share:.2g} of the whole difference is left out"
    )
    return {**facts, "outside": list(outside), "outside_share": share, "warnings": [told] if outside else []}


def _differences(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Norms of what differs, by name, largest first; of the whole where the other has no such parameter."""
    found: dict[str, float] = {}
    for name in {**theirs, **ours}:
        one, other = ours.get(name), theirs.get(name)
        if one is not None and other is not None and one.shape == other.shape:
            found[name] = float((one.double() - other.double()).norm())
        else:
            found[name] = max(float(tensor.double().norm()) for tensor in (one, other) if tensor is not None)
    return {name: norm for name, norm in sorted(found.items(), key=lambda pair: -pair[1]) if norm}


def _named(parameters: Mapping[str, float]) -> str:
    count, first = len(parameters), next(iter(parameters), "")
    return first if count == 1 else f"{count} parameters (norms, biases, embeddings; most in {first})"


def _file(name: str) -> Path:
    from laur.optimize.catalogue import file_of
    from laur.style.lookup import file_behind

    return file_of(file_behind(name))


def _lora(name: str) -> LoraFile:
    from laur.optimize.catalogue import find
    from laur.optimize.learned import LearnedWord
    from laur.optimize.lora_file import LoraFile
    from laur.style.lookup import file_behind

    adapter = find(file_behind(name))
    if isinstance(adapter, LearnedWord):
        raise AdapterError(
            f"{name} is a textual inversion, which changes no weights; say its word in the prompt: {adapter.word}"
        )
    if not isinstance(adapter, LoraFile):
        raise AdapterError(f"adapter {name!r} is code, not a file; there are no weights in it to work with")
    return adapter


def _deltas(adapter: LoraFile, model: str | None) -> tuple[Mapping[str, Delta], list[str], list[str]]:
    """What it changes, the model's layers, and what to tell of the rest of its file."""
    from laur.pipeline.architectures import layers_for

    _, layers = layers_for(adapter, model)
    left = adapter.coverage(layers).rest
    return adapter.deltas(layers), list(layers), [f"{adapter.path.name}: {left}"] if left else []


def _weights(name: str, text: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of the layers that a LoRA may change, and all other parameters, by canonical parameter name."""
    from laur.pipeline.loading.load import load

    loaded = load(name)
    modules: dict[str, Any] = {
        "unet": loaded.unet(),
        **({p.name: p.model for p in loaded.text_parts()} if text else {}),
    }
    weights: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        layers = {f"{layer}.weight" for layer in _layers(module)}
        for parameter, tensor in module.named_parameters(remove_duplicate=False):
            (weights if parameter in layers else others)[f"{prefix}.{parameter}"] = tensor.detach()
    return weights, others


def _layers(module: Any) -> list[str]:
    from laur.optimize.merge import layer_shapes

    return [name.partition(".")[2] for name in layer_shapes(module, "x")]


def _write(save: Any, out: Path, deltas: Mapping[str, Delta], **options: Any) -> None:
    if out.suffix != SUFFIX:
        raise OutputError(f"{out} should end in {SUFFIX}, as adapter files do")
    if not out.parent.is_dir():
        raise OutputError(f"there is no folder {out.parent}; make it first")
    save(out, deltas, **options)


def _blocks(placed: Sequence[str]) -> dict[str, int]:
    """Layers by block: the first two parts of a name inside its component, as unet.down_blocks.1."""
    return dict(Counter(_block(name) for name in placed))


def _block(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:3] if len(parts) > 3 and parts[2].isdigit() else parts[:2])


def _said(adapter: LoraFile) -> dict[str, Any]:
    from dataclasses import asdict

    return {key: value for key, value in asdict(adapter.recommends).items() if value not in (None, (), False)}
