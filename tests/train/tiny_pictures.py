"""Folders of small drawn pictures, as users have them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "gold", "teal", "pink", "navy", "olive")


def picture(number: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """One that is unlike every other number's."""
    found = Image.new("RGB", size, "white")
    colour = COLOURS[number % len(COLOURS)]
    ImageDraw.Draw(found).ellipse((4, 4, 24 + number % (size[0] - 28), size[1] - 6), fill=colour)
    return found


def pictures(folder: Path, count: int, size: tuple[int, int] = (64, 64), *, captions: bool = True) -> Path:
    """`count` PNGs, each with a caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number, size).save(folder / f"{number:03d}.png")
        if captions:
            text = f"a {COLOURS[number % len(COLOURS)]} egg, number {number}"
            (folder / f"{number:03d}.txt").write_text(text + "\n", "utf-8")
    return folder
