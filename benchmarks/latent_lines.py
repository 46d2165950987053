"""Which colours lie between two colours in an autoencoder's latents?

    python benchmarks/latent_lines.py [MODEL] --sheet docs/latent-lines.png --pack mini-train

Flat pictures of two colours are encoded, and points of the straight line between their latents decoded. Where those are
not the mixtures of the two, whatever averages latents (few steps, low ranks, a sum of adapters) draws stains of other
colours. Told in CIE 1976 colour differences (L*a*b*) from the sRGB values' mixture, mean and largest over the line.
With a pack, also how well icons of held-out concepts come back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from autoencoder import COLOURED, Autoencoder, decibels, pictures_of
from harness import report
from PIL import Image

from laur.style.teachers.tools import colour, to_lab
from laur.train.data.sources.fold import Fold
from laur.train.data.sources.pack import Pack
from laur.utils.sheet import SheetStyle, contact_sheet

SIDE = 128
POINTS = 13
ICONS = 24
PAIRS = {
    "black to white": ("#000000", "#ffffff"),
    "black to light grey": ("#000000", "#c8c8c8"),
    "near black to white": ("#121212", "#ffffff"),
    "near black to light grey": ("#121212", "#c8c8c8"),
    "noir's dark to its light": ("#2a2a2a", "#d1d1d1"),
    "charcoal to white": ("#2d2d2d", "#ffffff"),
    "charcoal to light grey": ("#2d2d2d", "#c8c8c8"),
    "charcoal to rice paper": ("#2d2d30", "#ded6c4"),
    "navy to light grey": ("#1a2350", "#c8c8c8"),
    "red to white": ("#dc2828", "#ffffff"),
    "yellow to black": ("#fcca12", "#000000"),
}


def flat(code: str) -> torch.Tensor:
    """(1, 3, SIDE, SIDE) in -1..1."""
    return (torch.from_numpy(colour(code).astype(np.float32)) * 2 - 1)[None, :, None, None].expand(1, 3, SIDE, SIDE)


def line(model: Autoencoder, first: str, last: str) -> np.ndarray:
    """(POINTS, 3): the colours of the line's points, 0 … 1, each over a patch of its own."""
    ends = []
    for code in (first, last):
        latent = model.encode(flat(code).contiguous())
        middle = latent.shape[-1] // 2
        ends.append(latent[..., middle - 2 : middle + 2, middle - 2 : middle + 2].mean((2, 3), keepdim=True))
    parts = torch.linspace(0, 1, POINTS)[:, None, None, None]
    latents = (ends[0] + parts * (ends[1] - ends[0])).expand(POINTS, -1, 16, 16).contiguous()
    decoded = model.decode(latents)
    middle = decoded.shape[-1] // 2
    inner = decoded[..., middle - 16 : middle + 16, middle - 16 : middle + 16]
    return ((inner.mean((2, 3)) + 1) / 2).numpy().astype(np.float32)


def differences(found: np.ndarray, first: str, last: str) -> np.ndarray:
    """(POINTS,) from the mixtures of the two colours that were encoded; 0 throughout for a perfect autoencoder."""
    parts = np.linspace(0, 1, POINTS, dtype=np.float32)[:, None]
    mixed = (1 - parts) * colour(first) + parts * colour(last)
    return np.linalg.norm(to_lab(found[None])[0] - to_lab(mixed.astype(np.float32)[None])[0], axis=1)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("--sheet", type=Path, help="a picture of the lines")
    parser.add_argument("--pack", type=Path, help="pictures to bring there and back: a pack's folder")
    parser.add_argument("--out", type=Path, help="JSON in place of benchmarks/results/latent_lines.json")
    args = parser.parse_args()
    model = Autoencoder(args.model)
    figures, rows = {}, []
    for words, pair in PAIRS.items():
        found = line(model, *pair)
        away = differences(found, *pair)
        figures[words] = {"colours": pair, "mean": round(float(away.mean()), 1), "largest": round(float(away.max()), 1)}
        rows.append(
            [Image.new("RGB", (56, 28), tuple(int(v) for v in (np.clip(c, 0, 1) * 255).round())) for c in found]
        )
        print(f"{words}: {figures[words]['mean']} mean, {figures[words]['largest']} at most", flush=True)
    if args.sheet:
        style = SheetStyle(cell=(56, 28), gap=4, row_label_width=170)
        contact_sheet(rows, row_labels=list(PAIRS), style=style).save(args.sheet)
    found = {"model": model.info.sha256, "lines": figures}
    if args.pack:
        icons = pictures_of(Fold(Pack(args.pack, styles=COLOURED), ICONS, held_out=True), ICONS)
        found["held-out icons, dB"] = round(decibels(model.there_and_back(icons), icons)["mean"], 1)
        print(f"{ICONS} held-out icons there and back: {found['held-out icons, dB']} dB", flush=True)
    report("latent_lines", (__doc__ or "").partition("\n")[0], found, args.out)


if __name__ == "__main__":
    main()
