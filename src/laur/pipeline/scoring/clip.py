"""A CLIP model's folder as a scorer: the cosine of its two embeddings (arXiv 2103.00020, section 3.1.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from laur.core.errors import CheckpointError
from laur.pipeline.scoring.base import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that OpenAI's CLIP was trained on."""
BATCH = 16


class ClipScorer(Scorer):
    """Cosine between a picture and a prompt, in -1 … 1. Nothing is fetched: the folder holds model and tokenizer."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Errors: CheckpointError where the folder holds no CLIP model with its tokenizer."""
        from transformers import AutoTokenizer, CLIPModel

        try:
            model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(f"{folder} holds no CLIP model that can be read: {reason}") from None
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        self._side = int(model.config.vision_config.image_size)
        self._length = int(model.config.text_config.max_position_embeddings)
        self._known: dict[str, Tensor] = {}
        self.name = f"CLIP in {folder.name}"
        files = sorted(folder.glob("*.safetensors"))
        self.key = hashlib.sha256(b"".join(file.read_bytes()[-(1 << 20) :] for file in files)).hexdigest()[:16]

    def scores(self, pixels: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See Scorer."""
        with torch.inference_mode():
            parts = [self._pictures(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
            return (torch.cat(parts) @ self._prompts(prompts).T).float().cpu().numpy()

    def _pictures(self, pixels: NDArray[np.uint8]) -> Tensor:
        x = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float()
        size = (self._side, self._side)
        x = functional.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 255) / 255
        mean, deviation = (torch.tensor(values, device=self._device)[:, None, None] for values in (MEAN, DEVIATION))
        made = self._model.vision_model(pixel_values=(x - mean) / deviation)
        return functional.normalize(self._model.visual_projection(made.pooler_output), dim=1)

    def _prompts(self, prompts: Sequence[str]) -> Tensor:
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if missing:
            read = self._tokenizer(
                missing, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
            )
            made = self._model.text_model(
                input_ids=read["input_ids"].to(self._device), attention_mask=read["attention_mask"].to(self._device)
            )
            embedded = functional.normalize(self._model.text_projection(made.pooler_output), dim=1)
            self._known |= dict(zip(missing, embedded, strict=True))
        return torch.stack([self._known[prompt] for prompt in prompts])
