"""Impressionism, expressionism, pointillism and the colourist wash: one brush, four ways to hold it.

Parameters after Hertzmann 1998, section 3 ("Impressionist", "Expressionist", "Pointillist", "Colorist Wash"); the
grounds and the shifts of colour are ours, since icons stand on bare white.
"""

from __future__ import annotations

import numpy as np

from laur.style.teachers import strokes
from laur.style.teachers.strokes import Brush
from laur.style.teachers.tools import (
    Field,
    Image,
    blur,
    colour,
    filled,
    fractal,
    from_hsv,
    from_lab,
    mix,
    soft,
    subject,
    to_hsv,
    to_lab,
)

IMPRESSIONIST = Brush(threshold=0.10, radii=(9, 5, 3), shortest=2, longest=5, value=0.22, saturation=0.2, hue=0.05)
EXPRESSIONIST = Brush(
    threshold=0.10, radii=(8, 5, 3), curvature=0.25, shortest=6, longest=12, opacity=0.9, value=0.45, hue=0.05
)
POINTILLIST = Brush(threshold=0.02, radii=(5, 3), grid=1.15, dots=True, value=0.45, hue=0.16, saturation=0.5)
WASH = Brush(threshold=0.2, radii=(10, 6, 4), opacity=0.6, shortest=3, longest=8, value=0.3, hue=0.12, saturation=0.3)


def _placed(image: Image, ground: Image, mask: Field) -> Image:
    return mix(ground, image, soft(mask, 1.0))


def _gradient(image: Image, top: str, bottom: str) -> Image:
    """A ground that passes from one colour at the top into another."""
    height, width = image.shape[:2]
    ramp = np.broadcast_to(np.linspace(0, 1, height, dtype=np.float32)[:, None], (height, width))
    return mix(np.broadcast_to(colour(top), image.shape).astype(np.float32), colour(bottom), ramp)


def impressionism(image: Image, rng: np.random.Generator) -> Image:
    """Short visible dabs in light, broken colour; blue-violet shadows (Monet), a hazy ground of sky over meadow."""
    mask = subject(image)
    lab = to_lab(filled(image, mask))
    shade = np.clip((62 - lab[..., 0]) / 60, 0, 1)  # shadows are never black: they turn blue
    lab[..., 0] = 34 + lab[..., 0] * 0.66
    lab[..., 2] -= 26 * shade
    lab[..., 1] += 8 * shade
    light = blur(fractal(image.shape, 60, rng, 2), 2)
    ground = to_lab(_gradient(image, "#a9c8ea", "#b7cf9a"))
    ground[..., 0] += 4 * light
    ground[..., 1] += 7 * fractal(image.shape, 40, rng, 2)
    ground[..., 2] += 8 * fractal(image.shape, 50, rng, 2)
    scene = _placed(from_lab(lab), from_lab(ground), mask)
    return strokes.paint(scene, IMPRESSIONIST, rng)


def expressionism(image: Image, rng: np.random.Generator) -> Image:
    """Long straight strokes, harsh contrast, a turbulent dark ground that swirls (Munch, Kirchner)."""
    mask = subject(image)
    hsv = to_hsv(filled(image, mask))
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.35 + 0.08, 0, 1)
    hsv[..., 2] = np.clip((hsv[..., 2] - 0.45) * 1.5 + 0.5, 0.08, 1)
    height, width = mask.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) / height - 0.5
    swirl = np.hypot(xs, ys) * 5 + np.arctan2(ys, xs) / np.pi + 0.45 * fractal(image.shape, 90, rng, 2)
    wave = (np.sin(swirl * 2 * np.pi) * 0.5 + 0.5).astype(np.float32)
    ground = mix(np.broadcast_to(colour("#1d2f6f"), image.shape).astype(np.float32), colour("#e2601f"), wave)
    ground = mix(ground, colour("#f2c14a"), np.clip(wave - 0.75, 0, 1) * 3)
    edge = np.clip(soft(mask, 4) * (1 - mask) * 3, 0, 1)
    scene = mix(_placed(from_hsv(hsv), ground, mask), colour("#14122a"), edge)
    return strokes.paint(scene, EXPRESSIONIST, rng)


def pointillism(image: Image, rng: np.random.Generator) -> Image:
    """Round dots of pure colour, side by side, over cream (Seurat): divided hues that mix in the eye."""
    mask = subject(image)
    hsv = to_hsv(filled(image, mask))
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.2 + 0.12, 0, 1)
    hsv[..., 2] = np.clip(hsv[..., 2] * 0.8 + 0.22, 0, 1)
    scene = _placed(from_hsv(hsv), _gradient(image, "#bcd6ec", "#f0e0a8"), mask)
    return strokes.paint(scene, POINTILLIST, rng, np.broadcast_to(colour("#f7efdc"), image.shape).astype(np.float32))


def wash(image: Image, rng: np.random.Generator) -> Image:
    """Loose, half transparent strokes with colours that wander, over warm paper."""
    mask = subject(image)
    paper = np.broadcast_to(colour("#fbf3e2"), image.shape).astype(np.float32)
    scene = _placed(filled(image, mask), paper, mask)
    return strokes.paint(scene, WASH, rng, paper)
