"""The fixed judge of styles: how probable each style is for a picture.

It was trained on what the styles' teachers make of icons (scripts/train_style_classifier.py): never on a picture drawn
with a style's adapter, and on concepts that no adapter has seen. What it is shown for "none" are the icons as they
are, and what mini draws without a style.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laur.core.errors import CheckpointError, NotFoundError
from laur.pipeline.scoring.compact import restored
from laur.train.evaluate.style_network import StyleNetwork, prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

NONE = "none"
"""The class of pictures in no style."""
BATCH = 64


class StyleClassifier:
    """Probabilities of styles, calibrated by a temperature on pictures that it was not trained on."""

    def __init__(self, file: Path | None = None) -> None:
        """`file` in place of the weights that ship. Errors: CheckpointError."""
        path = file or shipped()
        found, self.said = _read(path)
        self.classes: tuple[str, ...] = tuple(json.loads(self.said["classes"]))
        """Names of the teachers, and NONE."""
        self._temperature = float(self.said["temperature"])
        self._network = StyleNetwork(len(self.classes)).eval().requires_grad_(False)
        try:
            self._network.load_state_dict(restored(found))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(f"the style classifier {path} cannot be read ({reason})") from None
        self.key = hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def column(self, style: str) -> int:
        """Errors: NotFoundError where it was not trained on that style."""
        if style not in self.classes:
            raise NotFoundError(f"the style classifier knows no {style!r}; it knows {', '.join(self.classes)}")
        return self.classes.index(style)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(n, classes) of pictures (n, H, W, 3), over the temperature."""
        with torch.inference_mode():
            parts = [
                self._network(prepared(torch.from_numpy(pixels[start : start + BATCH])))
                for start in range(0, len(pixels), BATCH)
            ]
        return torch.cat(parts).double().numpy() / self._temperature

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(n, classes), each row of sum 1."""
        return softmax(self.logits(pixels))


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
    if missing := {"classes", "temperature"} - set(said):
        raise CheckpointError(f"{path} is no style classifier: its metadata lacks {sorted(missing)[0]!r}")
    return found, said
