"""Laur's runner for Cog: pictures from a prompt in a few steps.

Inputs have the names that users of the LCM packages on Replicate know. Draws with what scripts/save-weights put into
weights/, and with the embedded model `mini` where there is nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path as FilePath
from typing import Any

from cog import BaseRunner, Input, Path

WEIGHTS = FilePath(os.environ.get("LAUR_WEIGHTS", FilePath(__file__).parent / "weights"))
FORMATS = {"png": "png", "jpg": "jpeg", "webp": "webp"}


class Runner(BaseRunner):
    """Holds one engine; Cog sends it one prediction at a time, whose pictures are drawn together."""

    def setup(self) -> None:
        """Load the model that is in weights/, and draw once, so that the first prediction does not wait for more."""
        chosen: dict[str, Any] = {"model": "mini", "adapters": []}
        if (WEIGHTS / "weights.json").is_file():
            chosen |= json.loads((WEIGHTS / "weights.json").read_text("utf-8"))
            os.environ["LAUR_HOME"] = str(WEIGHTS / "home")
            os.environ["LAUR_CACHE"] = str(WEIGHTS / "cache")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # weights are fetched when the image is built, never here
        from laur import StandardPipeline

        self.adapters: list[str] = chosen["adapters"]
        self.pipeline = StandardPipeline(chosen["model"])
        self.pipeline("a dot", steps=1, seed=0, adapters=self._adapters(None, 1.0))  # ready is who has drawn

    def run(
        self,
        prompt: str = Input(description="What to draw."),
        negative_prompt: str = Input(description="What to avoid; acts with guidance above 1.", default=""),
        width: int | None = Input(description="Pixels; the model's own size by default.", default=None, ge=16, le=2048),
        height: int | None = Input(description="Pixels.", default=None, ge=16, le=2048),
        num_images: int = Input(description="Pictures; number i has seed + i.", default=1, ge=1, le=8),
        num_inference_steps: int | None = Input(
            description="Denoising steps: 1 to 8 with a consistency model.", default=None, ge=1, le=50
        ),
        guidance_scale: float | None = Input(
            description="Classifier-free guidance; 1 and below is none.", default=None, ge=0, le=20
        ),
        seed: int | None = Input(description="Leave blank for a random one.", default=None, ge=0),
        image: Path | None = Input(description="A picture to begin from (image to image).", default=None),
        mask: Path | None = Input(description="Where the image is drawn anew: white is.", default=None),
        prompt_strength: float | None = Input(
            description="How much is drawn over the image: 1 is all, 0.3 stays close.", default=None, ge=0, le=1
        ),
        lora: Path | None = Input(description="A LoRA's .safetensors file.", default=None),
        lora_scale: float = Input(description="How much of it.", default=1.0, ge=-2, le=2),
        style: str | None = Input(description="A style's name.", default=None),
        scheduler: str | None = Input(
            description="The model's own by default.", default=None, choices=["lcm", "tcd", "ddim", "euler", "dpm++2m"]
        ),
        eta: float | None = Input(description="0 is deterministic (TCD, DDIM).", default=None, ge=0, le=1),
        clip_skip: int = Input(description="Last layers of the text encoder to leave out.", default=0, ge=0, le=11),
        output_format: str = Input(description="Of the files.", default="png", choices=["png", "jpg", "webp"]),
        steps: int | None = Input(
            description="The same as num_inference_steps.", default=None, ge=1, le=50, deprecated=True
        ),
    ) -> list[Path]:
        """Draw; the files tell how they were made."""
        from laur.core.errors import LaurError

        fields: dict[str, Any] = {
            "negative_prompt": negative_prompt,
            "width": width,
            "height": height,
            "steps": num_inference_steps or steps,
            "guidance": guidance_scale if guidance_scale is None else max(1.0, guidance_scale),
            "image": image,
            "mask": mask,
            "strength": prompt_strength,
            "style": style,
            "sampler": scheduler,
            "eta": eta,
            "clip_skip": clip_skip + 1,  # in a recipe 1 leaves none out
            "adapters": self._adapters(lora, lora_scale),
        }
        try:
            result = self.pipeline(prompt, n=num_images, seed=seed, **fields)
            self.record_metric("seed", result.recipes[0].seed)
            folder = FilePath(tempfile.mkdtemp())
            return [
                Path(picture.save(folder / f"out-{number}.{output_format}", format=FORMATS[output_format]))
                for number, picture in enumerate(result)
            ]
        except LaurError as error:  # one line that says what, the limit and the remedy
            raise ValueError(str(error)) from None

    def _adapters(self, lora: Path | None, scale: float) -> tuple[Any, ...] | None:
        """Those in weights/ and the given one; None where there are none, so that the model takes its own."""
        from laur import AdapterRef

        found = [AdapterRef.parse(text) for text in self.adapters]
        if lora is not None:
            file = FilePath(tempfile.mkdtemp()) / "lora.safetensors"  # Cog names data URLs as it likes
            file.symlink_to(FilePath(lora).absolute())
            found.append(AdapterRef(name=str(file), weight=scale))
        return tuple(found) or None
