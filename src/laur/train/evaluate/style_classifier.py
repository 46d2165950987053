"""The fixed judge of styles: how probable each style is for a picture.

It was trained on what the styles' teachers make of icons (scripts/train_style_classifier.py): never on a picture drawn
with a style's adapter, and on concepts that no adapter has seen. What it is shown for "none" are the icons as they
are, and what mini draws without a style.

It is several networks of the same form and pictures, begun differently, whose probabilities are averaged (deep
ensembles: Lakshminarayanan et al. 2017, arXiv 1612.01474). A single one that passes the test as well may see pictures
unlike those of the test quite differently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laur.core.errors import CheckpointError, NotFoundError
from laur.pipeline.scoring.compact import restored
from laur.train.evaluate.style_network import StyleNetwork, prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

NONE = "none"
"""The class of pictures in no style."""
BATCH = 64
FORMAT = "laur-style-classifier/2"


class StyleClassifier:
    """Probabilities of styles, calibrated by a temperature on pictures that it was not trained on."""

    def __init__(self, file: Path | None = None) -> None:
        """`file` in place of the weights that ship. Errors: CheckpointError."""
        path = file or shipped()
        found, self.said = _read(path)
        self.classes: tuple[str, ...] = tuple(json.loads(self.said["classes"]))
        """Names of the teachers, and NONE."""
        self._temperature = float(self.said["temperature"])
        try:
            self._networks = [_network(weights, len(self.classes)) for weights in apart(found)]
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(f"the style classifier {path} cannot be read ({reason})") from None
        self.key = hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def column(self, style: str) -> int:
        """Errors: NotFoundError where it was not trained on that style."""
        if style not in self.classes:
            raise NotFoundError(f"the style classifier knows no {style!r}; it knows {', '.join(self.classes)}")
        return self.classes.index(style)

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(n, classes) of pictures (n, H, W, 3), each row of sum 1: the mean of the networks'."""
        return self.each(pixels).mean(0)

    def each(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(networks, n, classes): what each network says."""
        with torch.inference_mode():
            parts = [
                prepared(torch.from_numpy(pixels[start : start + BATCH])) for start in range(0, len(pixels), BATCH)
            ]
            found = torch.stack([torch.cat([network(part) for part in parts]) for network in self._networks])
        return softmax(found.double().numpy() / self._temperature)


def together(networks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One file's tensors of several networks' weights."""
    return {f"{number}.{name}": tensor for number, one in enumerate(networks) for name, tensor in one.items()}


def apart(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The weights of each network. Errors: ValueError where a name has no number or one is left out."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        found.setdefault(int(number), {})[rest] = tensor
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError(f"networks {', '.join(map(str, sorted(found))) or 'none'}")
    return [found[number] for number in range(len(found))]


def _network(weights: Mapping[str, Tensor], classes: int) -> StyleNetwork:
    network = StyleNetwork(classes).eval().requires_grad_(False)
    network.load_state_dict(restored(weights))
    return network


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def shipped() -> Path:
    """The file of weights in this package."""
    import laur.models

    return Path(laur.models.__file__).parent / "style_classifier" / "style_classifier.safetensors"


def _read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as content:
            said: dict[str, str] = content.metadata() or {}
            found = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"the style classifier {path} cannot be read ({reason})") from None
    if said.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"the style classifier {path} is of format {said['format']}, and {FORMAT} is read; "
            "train it anew (scripts/train_style_classifier.py)"
        )
    if missing := {"classes", "temperature"} - set(said):
        raise CheckpointError(f"{path} is no style classifier: its metadata lacks {sorted(missing)[0]!r}")
    return found, said
