"""Ink and pencil: what a picture is in lines and tones."""

from __future__ import annotations

import numpy as np

from laur.style.teachers.tools import (
    Field,
    Image,
    blur,
    colour,
    cv,
    fractal,
    gradient,
    luminance,
    mix,
    soft,
    subject,
    tensor_field,
    warped,
)

DIRECTIONS = 8
"""Of the pencil's lines (Lu 2012, section 3.1)."""


def flow_dog(grey: Field, image: Image, *, sigma: float, p: float, epsilon: float, phi: float) -> Field:
    """XDoG: Winnemöller, Kyprianidis & Olsen, "XDoG: an extended difference-of-Gaussians compendium", 2012.

    Equation 7, S = (1 + p) G_sigma - p G_k·sigma, then the soft threshold of equation 5; smoothed along the edges'
    direction as in section 2.6. `grey`: 0 … 1.
    """
    sharpened = (1 + p) * blur(grey, sigma) - p * blur(grey, 1.6 * sigma)
    angle, _ = tensor_field(image, 2.0)
    dx, dy = np.cos(angle), np.sin(angle)
    total, weights = sharpened.copy(), 1.0
    for distance in (1.0, 2.0, 3.0):
        weight = float(np.exp(-0.5 * (distance / 2.0) ** 2))
        total += weight * (
            warped(sharpened, dx * distance, dy * distance) + warped(sharpened, -dx * distance, -dy * distance)
        )
        weights += 2 * weight
    smooth = total / weights
    return np.where(smooth >= epsilon, 1.0, 1.0 + np.tanh(phi * (smooth - epsilon))).astype(np.float32)


def ink(image: Image, rng: np.random.Generator) -> Image:
    """Brush and ink on rice paper: swelling outlines, solid darks, a diluted wash where it is half dark (XDoG 2012).

    Darks are charcoal and the paper is toned: see `noir` for why neither is black or white. Hatching in place of the
    wash is finer than a latent, and few steps drew it as stains.
    """
    mask = subject(image)
    grey = luminance(image)
    grey = np.clip((grey - 0.12) / 0.8, 0, 1)
    wobble = 0.9
    dx, dy = wobble * fractal(image.shape, 24, rng, 2), wobble * fractal(image.shape, 24, rng, 2)
    grey, mask = warped(grey, dx, dy), warped(mask, dx, dy)
    lines = flow_dog(grey, image, sigma=1.5, p=18.0, epsilon=0.62, phi=9.0)
    outline = np.clip(1 - np.abs(soft(mask, 1.8) - 0.5) * 2.6, 0, 1)
    tone = blur(grey, 2.0) + 0.03 * fractal(image.shape, 40, rng, 2)
    diluted = 0.42 * np.clip((0.66 - tone) * 7, 0, 1) * mask
    solid = np.clip((0.24 - tone) * 10, 0, 1) * mask
    dark = np.maximum.reduce([1 - lines, outline, diluted, solid])
    paper = np.broadcast_to(colour("#ded6c4"), image.shape).astype(np.float32)
    return mix(paper, colour("#2d2d30"), soft(dark.astype(np.float32), 0.6))


def pencil(image: Image, rng: np.random.Generator) -> Image:
    """Lines and tone of graphite: Lu, Xu & Jia, "Combining Sketch and Tone for Pencil Drawing Production", 2012.

    Section 3.1: the gradient is told apart into directions and drawn along each with a line that overshoots; 3.2: tones
    are matched to the histogram of pencil drawings and rendered by a texture of strokes. The paper is toned: see `ink`.
    """
    mask = subject(image)
    line = _sketch(image)
    tone = _tone(luminance(image), mask)
    texture = _graphite(image.shape, rng)
    shade = np.clip(tone ** np.clip(1.15 + 0.55 * texture, 0.3, 2.6), 0, 1)
    shade = mix(np.ones_like(shade)[..., None], shade[..., None], soft(mask, 1.5))[..., 0]
    drawn = np.clip(shade * (1 - line), 0, 1)
    return mix(np.broadcast_to(colour("#36363a"), image.shape).astype(np.float32), colour("#ded8ca"), drawn)


def _sketch(image: Image) -> Field:
    """0 … 1, dark lines as 1."""
    grey = blur(luminance(image), 0.8)
    gx, gy = gradient(grey)
    strength = np.sqrt(gx * gx + gy * gy)
    half = 9
    responses: list[Field] = []
    kernels: list[Field] = []
    for index in range(DIRECTIONS):
        angle = np.pi * index / DIRECTIONS
        kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
        end = (half + round(half * np.cos(angle)), half + round(half * np.sin(angle)))
        start = (2 * half - end[0], 2 * half - end[1])
        cv().line(kernel, start, end, 1.0, 1, cv().LINE_AA)
        kernels.append(kernel / kernel.sum())
        responses.append(cv().filter2D(strength, -1, kernels[-1]))
    winner = np.argmax(responses, axis=0)
    total = np.zeros_like(strength)
    for index, kernel in enumerate(kernels):
        total += cv().filter2D(np.where(winner == index, strength, 0).astype(np.float32), -1, kernel)
    top = float(np.quantile(total, 0.985)) + 1e-6
    return np.clip(total / top, 0, 1) ** 0.8 * 0.92


def _tone(grey: Field, mask: Field) -> Field:
    """Histogram matching to p(v) of section 3.2: bright by a Laplacian, middle evenly, dark by a Gaussian."""
    values = np.arange(256)
    bright = np.exp(-(255 - values) / 9.0) / 9.0
    middle = ((values >= 105) & (values <= 225)) / 120.0
    dark = np.exp(-((values - 90) ** 2) / (2 * 11.0**2)) / (11.0 * np.sqrt(2 * np.pi))
    wanted = np.cumsum(42 * bright + 37 * middle + 21 * dark)
    wanted /= wanted[-1]
    inside = np.clip(grey[mask > 0.5] * 255, 0, 255).astype(np.int64)
    if not len(inside):
        return np.ones_like(grey)
    had = np.cumsum(np.bincount(inside, minlength=256)) / len(inside)
    # the paper replaces the histogram; half way keeps a dark subject darker than a light one
    table = 0.5 * np.searchsorted(wanted, had).clip(0, 255) + 0.5 * values
    return (table[np.clip(grey * 255, 0, 255).astype(np.int64)] / 255).astype(np.float32)


def _graphite(shape: tuple[int, ...], rng: np.random.Generator) -> Field:
    """Slanting strokes of a soft, blunt pencil, mean 0 and deviation about 1: about as wide as a latent, or few steps
    would draw their mean."""
    height, width = shape[:2]
    noise = rng.standard_normal((height, width)).astype(np.float32)
    kernel = np.zeros((25, 25), np.float32)
    cv().line(kernel, (2, 20), (22, 4), 1.0, 4, cv().LINE_AA)
    strokes = cv().filter2D(noise, -1, kernel / kernel.sum())
    strokes = blur(strokes, 1.3)
    return strokes / (float(strokes.std()) + 1e-6)
