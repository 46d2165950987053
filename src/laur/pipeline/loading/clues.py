"""What a single file says of how its network was trained: noise (epsilon) or velocity (v_prediction) predicted.

Nothing in the weights of SD 2 tells the two apart by name or shape. Files in the wild carry marks, though: the keys
`v_pred` and `ztsnr`, metadata of the ModelSpec standard (https://github.com/Stability-AI/ModelSpec) and of kohya's
trainer, or a .yaml file of the same name beside them, as A1111 reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from laur.core.checkpoint import Family
from laur.utils.safetensors_header import Header

_WORDS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v_pred": "v_prediction",
    "v-prediction": "v_prediction",
    "velocity": "v_prediction",
    "sample": "sample",
    "x0": "sample",
}
_YAML_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Clues:
    """The prediction type where it is known, else what is to be asked."""

    prediction: str | None
    question: str = ""


def prediction_clues(path: Path, header: Header, family: Family) -> Clues:
    """All marks together: they must agree. Without any, SD 2 stays open and the other families predict epsilon."""
    found = {
        "its key v_pred": "v_prediction" if "v_pred" in header.tensors else None,
        "its metadata": _from_metadata(header),
        f"{path.stem}.yaml": _from_yaml(path.with_suffix(".yaml")),
    }
    said = {where: prediction for where, prediction in found.items() if prediction is not None}
    if len(set(said.values())) > 1:
        words = " and ".join(f"{where} says {prediction}" for where, prediction in said.items())
        return Clues(None, f"{path.name} contradicts itself: {words}")
    if said:
        return Clues(next(iter(said.values())))
    if family is Family.SD2:
        return Clues(None, f"{path.name} is an SD 2 file that does not say whether it predicts epsilon or v")
    return Clues("epsilon")


def _from_metadata(header: Header) -> str | None:
    word = header.metadata.get("modelspec.prediction_type", "").strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    if header.metadata.get("ss_v_parameterization", "").lower() == "true":
        return "v_prediction"
    architecture = header.metadata.get("modelspec.architecture", "").lower()
    return {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}.get(architecture)


def _from_yaml(path: Path) -> str | None:
    """`parameterization` of an LDM configuration, whose default is epsilon."""
    try:
        if path.stat().st_size > _YAML_LIMIT:
            return None
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return None
    if found := re.search(r"^\s*parameterization:\s*[\"']?([\w-]+)", text, re.MULTILINE):
        return _WORDS.get(found[1].lower())
    return "epsilon" if "ldm.models.diffusion" in text else None
