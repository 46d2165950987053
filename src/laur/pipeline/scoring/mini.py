"""The scorer that ships: for icons, emoji and clip art on plain ground, the kind of picture that mini draws.

It was trained on such pictures alone (scripts/train_scorer.py). Of photographs it knows nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laur.core.errors import CheckpointError
from laur.pipeline.scoring.base import Scorer, register
from laur.pipeline.scoring.compact import restored
from laur.pipeline.scoring.network import Towers, prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from laur.input.text import TextEncoder

BATCH = 64
KEPT = 20_000
"""Prompts whose place in the space is remembered."""


class MeanState:
    """A text encoder's states, averaged over the tokens that a prompt has."""

    def __init__(self, encoder: TextEncoder) -> None:
        """Of the first of its parts."""
        self._part = encoder.parts[0]

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """(n, D) float32. Errors: RecipeError for a prompt that cannot be read."""
        frames = [self._part.windower.read(prompt).windows for prompt in prompts]
        flat = [self._part.windower.frame(window) for windows in frames for window in windows]
        states = self._part.run(flat, 1)[0].float()
        mask = torch.tensor([frame.mask for frame in flat], device=states.device).unsqueeze(-1).float()
        sums, counts = (states * mask).sum(1), mask.sum(1)
        owner = torch.tensor([number for number, windows in enumerate(frames) for _ in windows], device=states.device)
        total = sums.new_zeros(len(prompts), sums.shape[1]).index_add_(0, owner, sums)
        return total / counts.new_zeros(len(prompts), 1).index_add_(0, owner, counts)


def text_of_mini(device: torch.device, dtype: str = "float32") -> MeanState:
    """Over mini's own text encoder (MiniLM-L6)."""
    from laur.pipeline.device import choose
    from laur.pipeline.library import Library

    library = Library(choose(device, dtype), plain=True)
    return MeanState(library.encoder(library.checkpoint("mini").key, ()))


@register("mini")
class MiniScorer(Scorer):
    """Cosine between a picture and a prompt, in -1 … 1."""

    name = "mini's scorer"

    def __init__(self, device: torch.device, file: Path | None = None) -> None:
        """`file` in place of the weights that ship. Errors: CheckpointError."""
        towers, self.key, self.said = load_towers(file or shipped())
        self._towers = towers.eval().requires_grad_(False).to(device)
        self._device = device
        self._text: MeanState | None = None
        self._known: dict[str, Tensor] = {}

    def scores(self, pixels: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See Scorer."""
        with torch.inference_mode():
            pictures = [
                self._towers.image(prepared(torch.from_numpy(pixels[start : start + BATCH]).to(self._device)))
                for start in range(0, len(pixels), BATCH)
            ]
            return (torch.cat(pictures) @ self._prompts(prompts).T).cpu().numpy()

    def _prompts(self, prompts: Sequence[str]) -> Tensor:
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if len(self._known) + len(missing) > KEPT:
            self._known.clear()
            missing = list(dict.fromkeys(prompts))
        if missing and self._text is None:
            self._text = text_of_mini(self._device)
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            assert self._text is not None
            self._known |= dict(zip(part, self._towers.text(self._text(part)), strict=True))
        return torch.stack([self._known[prompt] for prompt in prompts])


def shipped() -> Path:
    """The file of weights in this package."""
    import laur.models

    return Path(laur.models.__file__).parent / "scorer" / "scorer.safetensors"


def load_towers(file: Path) -> tuple[Towers, str, Mapping[str, str]]:
    """The towers, a key of their weights, and what was written down in training. Errors: CheckpointError."""
    from safetensors import SafetensorError, safe_open

    try:
        found: dict[str, Any] = {}
        with safe_open(file, "pt") as content:
            said: dict[str, str] = content.metadata() or {}
            for name in content.keys():  # noqa: SIM118 - it is no mapping
                found[name] = content.get_tensor(name)
        towers = Towers()
        towers.load_state_dict(restored(found))
        return towers, hashlib.sha256(file.read_bytes()).hexdigest()[:16], said
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"the scorer's weights {file} cannot be read ({reason}); install lcm-laur again"
        ) from None
