"""A folder of pictures for an autoencoder to learn from that has seen icons on white alone.

    python scripts/make_grounds.py --pack mini-train --out pictures
    laur data prepare folder pictures --out sets/grounds --size 256 --pixels

Icons as they are, icons of other colours on grounds of any colour (flat, or from one colour to another), and what the
styles' teachers make of icons.
"""

from __future__ import annotations

import argparse
import colorsys
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laur.style.cards import shipped
from laur.style.teachers import teacher
from laur.train.data.picture import Record, Skip
from laur.train.data.sources.fold import Fold
from laur.train.data.sources.pack import Pack
from laur.train.data.sources.restyled import Restyled

SIDE = 256
NOISY = 0.1
"""Share of the recoloured that have a grain, as no flat colour has."""

Pixels = NDArray[np.uint8]


def main() -> None:
    """Write them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pack", type=Path, required=True, help="where the icons are")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    parser.add_argument("--plain", type=int, default=2150, help="icons as they are")
    parser.add_argument("--grounds", type=int, default=1250, help="icons of other colours on other grounds")
    parser.add_argument("--painted", type=int, default=24, help="icons that each teacher paints over")
    wish = parser.parse_args()
    wish.out.mkdir(parents=True, exist_ok=True)
    icons = Fold(Pack(wish.pack), wish.plain + wish.grounds, held_out=False)
    rng = np.random.default_rng(0)
    number = 0
    for pixels in _plain(icons, 0, len(icons)):
        number += 1
        on_white = rng.random() < wish.plain / (wish.plain + wish.grounds)
        _save(wish.out, "icon" if on_white else "ground", number, pixels if on_white else regrounded(pixels, rng))
    cards = [card for card in shipped() if card.teacher]
    beneath = Fold(Pack(wish.pack), wish.painted * len(cards), held_out=False)
    for place, card in enumerate(cards):
        source = Restyled(beneath, teacher(card.teacher), "", seed=None)
        for pixels in _plain(source, place * wish.painted, (place + 1) * wish.painted):
            number += 1
            _save(wish.out, card.name, number, pixels)
        print(card.name, flush=True)
    names = sorted(path.name for path in wish.out.glob("*.png"))
    lines = (json.dumps({"file_name": name, "text": "a picture"}) + "\n" for name in names)
    (wish.out / "metadata.jsonl").write_text("".join(lines))
    print(f"{len(names)} pictures in {wish.out}")


def regrounded(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """(H, W, 3): other hues, and another ground where it was white."""
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.float64)
    hsv[..., 0] = (hsv[..., 0] + rng.integers(256)) % 256
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.4, 1.2), 0, 255)
    body = np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")).astype(np.float64)
    first, last = _colour(rng), _colour(rng)
    if rng.random() < 0.6:  # flat
        last = first
    along = np.linspace(0, 1, SIDE)
    way = along[:, None, None] if rng.random() < 0.5 else along[None, :, None]
    white = (pixels.min(-1, keepdims=True) / 255.0) ** 4
    found = body * (1 - white) + (first * (1 - way) + last * way) * white
    if rng.random() < NOISY:
        found = found + rng.normal(0, rng.uniform(2, 12), found.shape)
    return found.clip(0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.array(colorsys.hls_to_rgb(rng.random(), rng.uniform(0.05, 0.95), rng.uniform(0, 1))) * 255


def _plain(source: Any, start: int, stop: int) -> Iterator[Pixels]:
    """What can be drawn of its records, at one size."""
    record: Record
    for record in source.records(start, stop):
        try:
            image = record.draw(SIDE).image
        except Skip:
            continue
        yield np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _save(folder: Path, kind: str, number: int, pixels: Pixels) -> None:
    Image.fromarray(pixels).save(folder / f"{kind}-{number:05}.png", compress_level=1)


if __name__ == "__main__":
    main()
