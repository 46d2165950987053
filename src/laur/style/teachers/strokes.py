"""Curved brush strokes in layers, from a thick brush to a thin one.

Hertzmann, "Painterly Rendering with Curved Brush Strokes of Multiple Sizes", SIGGRAPH 1998: section 2.1 the layers,
2.2 the curved strokes, section 3 the styles as parameters. Strokes of one layer are laid opaque in random order and the
layer is then blended at the style's opacity, where the paper blends each stroke.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laur.style.teachers.tools import Field, Image, blur, cv, from_hsv, gradient, luminance, mix, to_hsv

SHIFT = 4
"""Fractional bits of the points that OpenCV draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brush:
    """The paper's style parameters (section 3)."""

    threshold: float
    """T: colour difference from which a stroke is laid, 0 … 1 (the paper's over 255)."""
    radii: tuple[int, ...]
    """R: thick to thin, pixels."""
    curvature: float = 1.0
    """f_c: 1 follows the picture, less goes straighter."""
    blur: float = 0.5
    """f_sigma: blur of the reference over the radius."""
    grid: float = 1.0
    """f_g: spacing of strokes over the radius."""
    shortest: int = 4
    longest: int = 16
    """Of a stroke, in radii."""
    opacity: float = 1.0
    hue: float = 0.0
    saturation: float = 0.0
    value: float = 0.0
    """Jitter of each stroke's colour."""
    dots: bool = False
    """Round dabs in place of curves."""


def paint(reference: Image, brush: Brush, rng: np.random.Generator, ground: Image | None = None) -> Image:
    """Paint `reference` on `ground` (none: every place must be painted)."""
    canvas = np.full_like(reference, -10.0) if ground is None else ground.copy()
    for radius in brush.radii:
        blurred = blur(reference, brush.blur * radius)
        layer = _layer(canvas, blurred, radius, brush, rng)
        canvas = layer if canvas.min() < -1 else mix(canvas, layer, brush.opacity)
    return np.clip(canvas, 0, 1)


def _layer(canvas: Image, reference: Image, radius: int, brush: Brush, rng: np.random.Generator) -> Image:
    """Section 2.1, paintLayer: a stroke from the worst pixel of each cell whose error is above the threshold."""
    height, width = reference.shape[:2]
    step = max(2, round(brush.grid * radius))
    difference = np.sqrt(((canvas - reference) ** 2).sum(2))
    gx, gy = gradient(luminance(reference))
    painted = canvas.copy()
    starts: list[tuple[int, int]] = []
    for top in range(0, height, step):
        for left in range(0, width, step):
            cell = difference[top : top + step, left : left + step]
            if float(cell.mean()) > brush.threshold:
                y, x = divmod(int(cell.argmax()), cell.shape[1])
                starts.append((left + x, top + y))
    colours = _jittered(np.array([reference[y, x] for x, y in starts], np.float32).reshape(-1, 3), brush, rng)
    for index in rng.permutation(len(starts)):
        x, y = starts[index]
        tone = tuple(float(channel) for channel in colours[index])
        if brush.dots:
            spot = (round(x * 2**SHIFT), round(y * 2**SHIFT))
            cv().circle(painted, spot, round(radius * 2**SHIFT), tone, -1, cv().LINE_AA, SHIFT)
            continue
        points = _stroke((x, y), radius, reference=reference, canvas=canvas, slope=(gx, gy), brush=brush)
        ends = np.rint(np.array(points) * 2**SHIFT).astype(np.int32).reshape(-1, 1, 2)
        cv().polylines(painted, [ends], False, tone, 2 * radius, cv().LINE_AA, SHIFT)
    return painted


def _stroke(
    start: tuple[int, int],
    radius: int,
    *,
    reference: Image,
    canvas: Image,
    slope: tuple[Field, Field],
    brush: Brush,
) -> list[tuple[float, float]]:
    """Section 2.2, makeSplineStroke: on along the normal of the gradient until the colour no longer suits."""
    height, width = reference.shape[:2]
    x, y = start
    tone = reference[y, x]
    points, px, py, ldx, ldy = [(float(x), float(y))], float(x), float(y), 0.0, 0.0
    for length in range(1, brush.longest + 1):
        ix, iy = min(max(int(px), 0), width - 1), min(max(int(py), 0), height - 1)
        here = reference[iy, ix]
        if length > brush.shortest and np.abs(here - canvas[iy, ix]).sum() < np.abs(here - tone).sum():
            break
        gx, gy = float(slope[0][iy, ix]), float(slope[1][iy, ix])
        strength = (gx * gx + gy * gy) ** 0.5
        if strength < 1e-4:
            if length == 1:
                gx, gy, strength = 0.4, 1.0, 1.077  # nothing to follow: a slanting dab
            else:
                gx, gy, strength = ldy, -ldx, 1.0
        dx, dy = -gy / strength, gx / strength
        if ldx * dx + ldy * dy < 0:
            dx, dy = -dx, -dy
        dx, dy = (
            brush.curvature * dx + (1 - brush.curvature) * ldx,
            brush.curvature * dy + (1 - brush.curvature) * ldy,
        )
        norm = max((dx * dx + dy * dy) ** 0.5, 1e-6)
        ldx, ldy = dx / norm, dy / norm
        px, py = px + radius * ldx, py + radius * ldy
        points.append((px, py))
    return points


def _jittered(colours: NDArray[np.floating[Any]], brush: Brush, rng: np.random.Generator) -> NDArray[np.float32]:
    if not len(colours) or not (brush.hue or brush.saturation or brush.value):
        return colours
    hsv = to_hsv(colours[None])[0]
    noise = rng.uniform(-0.5, 0.5, hsv.shape).astype(np.float32)
    hsv[:, 0] = (hsv[:, 0] + 360 * brush.hue * noise[:, 0]) % 360
    hsv[:, 1] = np.clip(hsv[:, 1] + brush.saturation * noise[:, 1], 0, 1)
    hsv[:, 2] = np.clip(hsv[:, 2] + brush.value * noise[:, 2], 0, 1)
    return from_hsv(hsv[None])[0]
