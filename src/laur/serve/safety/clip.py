"""The classifier that came with Stable Diffusion: CLIP's view of a picture beside concepts that are not to be shown.

The format and the rule are those of diffusers' StableDiffusionSafetyChecker (Rando et al., arXiv 2210.04610, describe
it); the weights are in folders such as CompVis/stable-diffusion-safety-checker, as `model.safetensors` beside their
`config.json`. It judges pictures only: no prompt is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures, by channel."""
CARE = 0.01
"""By how much every threshold is lowered where one of the special concepts is near."""


class ClipSafety:
    """See `Safety`."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError for what is no safety checker in safetensors."""
        self._model: Any = _load(folder)
        self.name = f"clip {_identity(folder)}"

    def prompt(self, text: str) -> str | None:
        """See `Safety`: never refused."""
        del text

    def picture(self, pixels: np.ndarray) -> str | None:
        """See `Safety`."""
        margins = self.margins(pixels)
        worst = max(range(len(margins)), key=margins.__getitem__)
        if margins[worst] <= 0:
            return None
        return f"the safety checker took it for concept {worst}, {margins[worst]:.3f} above its threshold"

    def margins(self, pixels: np.ndarray) -> list[float]:
        """By how much a picture is above each concept's threshold."""
        import torch
        from torch.nn.functional import cosine_similarity

        model = self._model
        with torch.inference_mode():
            seen = model.visual_projection(model.vision_model(_prepared(pixels, self._side))[1])
            special = cosine_similarity(seen, model.special_care_embeds) - model.special_care_embeds_weights
            each = cosine_similarity(seen, model.concept_embeds) - model.concept_embeds_weights
        care = CARE if bool((special.round(decimals=3) > 0).any()) else 0.0
        return [round(float(margin) + care, 3) for margin in each]

    @property
    def _side(self) -> int:
        return int(self._model.config.vision_config.image_size)


def _load(folder: Path) -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(
            f"{folder} has no model.safetensors; a safety checker's weights are not read from pickles"
        )
    try:
        return StableDiffusionSafetyChecker.from_pretrained(folder, use_safetensors=True, local_files_only=True).eval()
    except Exception as error:  # transformers raises whatever came up
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder} holds no safety checker that can be read: {reason}") from None


def _identity(folder: Path) -> str:
    import hashlib

    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _prepared(pixels: np.ndarray, side: int) -> Tensor:
    """(1, 3, side, side) as CLIP wants it: the shorter side resized, the middle cropped, normalised."""
    import numpy as np
    import torch
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    shorter = min(image.size)
    image = image.resize((side * image.width // shorter, side * image.height // shorter), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    values = torch.from_numpy(np.array(image.crop((left, top, left + side, top + side)))).permute(2, 0, 1) / 255
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return ((values - mean) / std)[None]
