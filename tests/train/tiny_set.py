"""A prepared set of six drawn eggs, written as `laur data prepare` writes one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from laur.pipeline.loading.load import load
from laur.train.conditions import encoder_key
from laur.train.data import shards

SIDE = 64
COLOURS = ("red", "green", "blue", "gold", "teal", "pink")


def tiny_set(folder: Path, checkpoint: Path) -> Path:
    """Latents of the checkpoint's own autoencoder, and the pixels."""
    loaded = load(str(checkpoint))
    samples = [_sample(loaded, number, colour) for number, colour in enumerate(COLOURS)]
    folder.mkdir(parents=True)
    shards.write(folder / shards.part_name(0), samples, {})
    values = {
        "format": shards.FORMAT,
        "source": {"kind": "drawn"},
        "model": loaded.info.name,
        "encoder": encoder_key(loaded),
        "size": SIDE,
        "channels": loaded.info.latent_channels,
        "downscale": loaded.info.downscale,
        "buckets": [[SIDE, SIDE]],
        "pictures": len(samples),
        "parts": [len(samples)],
        "styles": {"egg": len(samples)},
        "licences": {"CC0-1.0": len(samples)},
        "skipped": {},
        "keeps_pixels": True,
    }
    (folder / shards.INDEX).write_text(json.dumps(values))
    return folder


def _sample(loaded: object, number: int, colour: str) -> shards.Sample:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(picture).ellipse((8, 8, 40 + number, 56), fill=colour)
    pixels = np.asarray(picture)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        latent = loaded.vae().encode(tensor).latent_dist.mode()[0]  # type: ignore[attr-defined]
    scaled = (latent - loaded.info.latent_shift) * loaded.info.latent_scale  # type: ignore[attr-defined]
    return shards.Sample(
        name=f"{colour}.png",
        captions=(colour, f"a {colour} egg (drawn)"),
        style="egg",
        licence="CC0-1.0",
        origin="tests",
        bucket=0,
        original=(SIDE, SIDE),
        crop=(0, 0),
        latent=scaled.half().numpy(),
        pixels=pixels,
        states=(),
        pooled=(),
    )
