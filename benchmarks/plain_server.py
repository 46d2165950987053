"""A plain FastAPI server around diffusers, as most tutorials write it: one pipeline, one request at a time.

    python benchmarks/plain_server.py PORT float32|bfloat16

The peer of benchmarks/peers.py: the weights are mini's, with the LCM-LoRA fused, four steps, PNG in base64.
"""

from __future__ import annotations

import base64
import io
import sys
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

import laur.models


class Wish(BaseModel):
    """What OpenAI's clients send, as far as it is drawn."""

    prompt: str
    size: str = "256x256"
    seed: int = 0


def pipeline(dtype: torch.dtype) -> Any:
    """diffusers' own, with its LCM scheduler."""
    from diffusers import LCMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(laur.models.checkpoint_folder("mini"), dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(laur.models.adapter_file("lcm-lora-mini"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def application(dtype: torch.dtype) -> FastAPI:
    """One route, and one that says that it is there."""
    app, pipe, turn = FastAPI(), pipeline(dtype), threading.Lock()

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/images/generations")
    def generate(wish: Wish) -> dict[str, Any]:  # FastAPI calls it in a thread
        width, height = (int(side) for side in wish.size.split("x"))
        generator = torch.Generator().manual_seed(wish.seed)
        with turn:
            image = pipe(
                wish.prompt, num_inference_steps=4, guidance_scale=1.0, width=width, height=height, generator=generator
            ).images[0]
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"created": 0, "data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]}

    return app


if __name__ == "__main__":
    uvicorn.run(application(getattr(torch, sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
