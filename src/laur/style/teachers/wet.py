"""Watercolour, and oil by an edge-following Kuwahara filter."""

from __future__ import annotations

import numpy as np

from laur.style.teachers.tools import (
    Field,
    Image,
    blur,
    colour,
    cv,
    filled,
    fractal,
    gradient,
    luminance,
    mix,
    same_always,
    soft,
    subject,
    tensor_field,
    warped,
)

SECTORS = 8


def watercolour(image: Image, rng: np.random.Generator) -> Image:
    """Transparent washes on rough paper.

    Bousseau, Kaplan, Thollot & Sillion, "Interactive watercolor rendering with temporal coherence and abstraction",
    2006: section 3.1, density changes the pigment as C' = C - (C - C²)(d - 1), driven by turbulent flow, dispersion and
    paper; 3.2, wobble. Edge darkening and bleeding after Montesdeoca et al., "Edge- and substrate-based effects for
    watercolor stylization", 2017, sections 4.1 and 4.3.
    """
    mask = subject(image)
    paper = fractal(image.shape, 5, rng, 2)
    wobble = 2.2
    dx, dy = wobble * fractal(image.shape, 30, rng, 3), wobble * fractal(image.shape, 30, rng, 3)
    pigment = warped(cv().bilateralFilter(filled(image, mask), 9, 0.2, 6.0), dx, dy)
    wet = np.clip(warped(soft(mask, 1.0), dx, dy), 0, 1)
    pigment = 0.2 + 0.8 * pigment  # watercolour has no black, and paper shines through
    edges = np.clip(np.abs(blur(luminance(pigment), 0.8) - blur(luminance(pigment), 4.0)) * 5, 0, 1)
    rim = np.clip(wet - blur(wet, 4.0), 0, 1) * 2.4
    density = 1 + 0.42 * blur(fractal(image.shape, 70, rng, 3), 1) + 0.16 * paper + 1.3 * rim + 0.9 * edges
    washed = _pigmented(pigment, density)
    bleed = np.clip(blur(wet, 7.0) * 0.3 + 0.06 * fractal(image.shape, 40, rng, 3), 0, 0.35) * (1 - wet)
    sheet = mix(np.full_like(image, 1.0), colour("#faf6ea"), 0.8) * (1 + 0.012 * paper[..., None])
    scene = mix(sheet.astype(np.float32), filled(image, mask, sigma=14.0), bleed)
    return np.clip(mix(scene, washed, wet), 0, 1)


def _pigmented(tone: Image, density: Field) -> Image:
    """Bousseau 2006, equation 2."""
    d = np.clip(density, 0.25, 2.4)[..., None]
    return np.clip(tone - (tone - tone * tone) * (d - 1), 0, 1).astype(np.float32)


def oil(image: Image, rng: np.random.Generator) -> Image:
    """Thick paint on a thin brown ground: flat touches along the forms, with the light on their ridges.

    Kyprianidis, Kang & Döllner, "Image and Video Abstraction by Anisotropic Kuwahara Filtering", 2009: section 3.2, an
    ellipse along the structure tensor in eight sectors, weighted by the inverse of their deviation (equation 9). The
    impasto is light on a height field of the paint, after Hertzmann, "Fast Paint Texture", 2002.
    """
    mask = subject(image)
    place = same_always(1656)
    ground = _ground(image, place)
    scene = mix(ground, filled(image, mask), soft(mask, 1.2))
    painted = kuwahara(kuwahara(scene, 7.0, rng), 5.0, rng)
    angle, _ = tensor_field(painted, 5.0)
    bristle = _along(place.standard_normal(mask.shape).astype(np.float32), angle, 9)
    height = blur(bristle, 0.6) / (float(bristle.std()) + 1e-6)
    gx, gy = gradient(height * (0.05 + 0.11 * soft(mask, 3.0)) + luminance(painted) * 1.4)
    relief = np.clip(-(gx + gy) * 1.7, -0.16, 0.2)
    lit = painted * (1 + relief[..., None]) + np.clip(relief - 0.06, 0, 1)[..., None] * 0.5
    return np.clip((lit - 0.5) * 1.08 + 0.48, 0, 1).astype(np.float32)


def _ground(image: Image, rng: np.random.Generator) -> Image:
    """Umber and olive, lighter about the middle, as behind an old still life; light enough for a dark thing to show."""
    height, width = image.shape[:2]
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    far = np.hypot((xs - 0.42 * width) / width, (ys - 0.4 * height) / height)
    base = mix(
        np.broadcast_to(colour("#c4a878"), image.shape).astype(np.float32), colour("#66553a"), np.clip(far * 1.5, 0, 1)
    )
    table = np.clip((ys - 0.8 * height) / 6, 0, 1)
    base = mix(base, colour("#744c2c"), table * 0.75)
    return np.clip(base + 0.035 * fractal(image.shape, 40, rng, 3)[..., None], 0, 1).astype(np.float32)


def kuwahara(image: Image, radius: float, rng: np.random.Generator) -> Image:
    """The anisotropic filter; sectors are sampled at three distances and three angles each."""
    angle, anisotropy = tensor_field(image, 2.0)
    longer = 1 + 0.9 * anisotropy
    total = np.zeros_like(image)
    weights = np.zeros(image.shape[:2], np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    for sector in range(SECTORS):
        samples: list[Image] = []
        for distance in (0.3, 0.65, 1.0):
            for turn in (-0.28, 0.0, 0.28):
                phi = 2 * np.pi * sector / SECTORS + turn
                u = radius * distance * np.cos(phi) * longer
                v = radius * distance * np.sin(phi) / longer
                samples.append(warped(image, u * cos - v * sin, u * sin + v * cos))
        stack = np.stack(samples)
        mean = stack.mean(0)
        deviation = np.sqrt(stack.var(0).sum(2))
        weight = 1 / (1 + (deviation * 255) ** 4)
        total += mean * weight[..., None]
        weights += weight
    return (total / (weights[..., None] + 1e-12)).astype(np.float32)


def _along(noise: Field, angle: Field, length: int) -> Field:
    """Noise smeared along a direction (line integral convolution, Cabral & Leedom 1993, straight)."""
    dx, dy = np.cos(angle), np.sin(angle)
    total = noise.copy()
    for distance in range(1, length):
        total += warped(noise, dx * distance, dy * distance) + warped(noise, -dx * distance, -dy * distance)
    return total / (2 * length - 1)
