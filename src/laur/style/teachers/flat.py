"""Flat colours: Fauvism, cubism, ukiyo-e, pixel art and paper cut."""

from __future__ import annotations

import numpy as np

from laur.style.teachers import strokes
from laur.style.teachers.lines import flow_dog
from laur.style.teachers.strokes import Brush
from laur.style.teachers.tools import (
    Field,
    Image,
    blur,
    colour,
    cv,
    filled,
    fractal,
    from_hsv,
    from_lab,
    gradient,
    luminance,
    mix,
    quantised,
    soft,
    subject,
    to_hsv,
    to_lab,
    warped,
)

FAUVE = Brush(threshold=0.08, radii=(9, 6, 4), curvature=0.7, shortest=2, longest=6, value=0.14, hue=0.03)
FAUVE_SHADES = ("#1f3fae", "#0d7f6d", "#b3123f")
FAUVE_LIGHTS = ("#ffd21f", "#ff8a3c", "#ff9ec4")


def fauvism(image: Image, rng: np.random.Generator) -> Image:
    """Pure colours that mean the light and not the thing (Matisse, Derain): a remapping of the colour field.

    The wheel of hues is pulled to six pure ones, shadows go to a cold saturated colour and lights to a warm one (colour
    transfer by palette, after Neumann & Neumann, "Color Style Transfer Techniques using Hue, Lightness and Saturation
    Histogram Matching", 2005, section 3); flat strokes after Hertzmann 1998, dark blue contours.
    """
    mask = subject(image)
    inner = cv().bilateralFilter(filled(image, mask), 9, 0.25, 7.0)
    hsv = to_hsv(inner)
    grey = hsv[..., 1] < 0.16
    hue = hsv[..., 0]
    pure = np.round(hue / 60) * 60
    hsv[..., 0] = np.where(grey, 28.0, (hue + 0.55 * (pure - hue)) % 360)
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.5 + 0.3, 0.55, 1)
    hsv[..., 2] = np.clip(hsv[..., 2] * 0.75 + 0.3, 0, 1)
    light = luminance(inner)
    low, high = np.quantile(light[mask > 0.5], (0.1, 0.9)) if mask.any() else (0.2, 0.8)
    tone = np.clip((light - low) / max(high - low, 0.15), 0, 1)
    shade = colour(FAUVE_SHADES[int(rng.integers(2))])
    glow = colour(FAUVE_LIGHTS[int(rng.integers(3))])
    body = mix(from_hsv(hsv), shade, np.clip((0.3 - tone) * 3, 0, 0.85))
    body = mix(body, glow, np.clip((tone - 0.78) * 3.5, 0, 0.75))
    patches = fractal(image.shape, 120, rng, 1)
    ys = np.linspace(0, 1, image.shape[0], dtype=np.float32)[:, None] + 0 * patches
    ground = np.broadcast_to(colour("#f4a7c0"), image.shape).astype(np.float32)
    ground = mix(ground, colour("#2fb5a5"), (patches > 0.25).astype(np.float32))
    ground = mix(ground, colour("#f7c437"), (patches < -0.7).astype(np.float32))
    ground = mix(ground, colour("#e8543a"), (ys + 0.1 * patches > 0.76).astype(np.float32))
    scene = mix(blur(ground, 1.5), body, soft(mask, 0.9))
    painted = strokes.paint(scene, FAUVE, rng)
    rim = np.clip(1 - np.abs(blur(mask, 2.0) - 0.5) * 2.6, 0, 1)
    return mix(painted, colour("#17276b"), soft(rim.astype(np.float32), 0.6))


PLANES = ((-0.9, -0.5, 14.0, 5.0), (0.1, -1.0, 20.0, 2.0), (0.9, -0.4, 3.0, -4.0), (0.8, 0.6, -16.0, -6.0),
          (-0.1, 1.0, -20.0, 3.0), (-0.8, 0.6, -7.0, 6.0))  # fmt: skip
"""Cubism's planes: where each looks (right, down), and what it adds to lightness and to blue-yellow."""


def cubism(image: Image, _: np.random.Generator) -> Image:
    """A thing of a few flat planes, seen from several sides at once, in ochre, grey and green (Braque, Picasso 1910).

    The thing is raised to a body; each part of it belongs to the plane that looks most nearly where the body does, and
    a plane has one light and is moved by itself, over its neighbours (Collomosse & Hall, "Cubist Style Rendering from
    Photographs", 2003). So planes follow the thing's own edges: facets strewn over the picture (Hausner, "Simulating
    Decorative Mosaics", 2001) lie where no prompt tells a model, and it draws the mean of all places.
    """
    mask = subject(image)
    height, width = mask.shape
    ys = np.broadcast_to(np.linspace(0, 1, height, dtype=np.float32)[:, None], (height, width))
    inside = filled(image, mask)
    depth = cv().distanceTransform(mask.astype(np.uint8), cv().DIST_L2, 5)
    raised = blur(np.sqrt(depth).astype(np.float32), 5.0) + 1.5 * blur(luminance(inside) * mask, 3.0)
    gx, gy = gradient(blur(raised, 2.0))
    looks = np.stack([-(gx * right + gy * down) / np.hypot(right, down) for right, down, *_ in PLANES], 2)
    plane = cv().medianBlur(looks.argmax(2).astype(np.uint8), 11 if min(height, width) > 32 else 3).astype(np.intp)
    right, down, light, warm = (np.array(column, np.float32)[plane] for column in zip(*PLANES, strict=True))
    dx, dy = -6.0 * right, -6.0 * down  # planes overlap and leave the outline
    thing = warped(soft(mask, 1.0), dx, dy)
    ground = mix(np.broadcast_to(colour("#d8c49a"), image.shape).astype(np.float32), colour("#8d8a68"), ys)
    lab = to_lab(mix(ground, warped(inside, dx, dy), thing))
    lab[..., 1:] *= 0.85
    lab[..., 2] += 5 + warm * thing
    lab[..., 0] = np.clip(lab[..., 0] * 0.88 + 6 + light * thing, 6, 97)
    edges = np.zeros((height, width), np.float32)
    edges[:, 1:] = np.maximum(edges[:, 1:], plane[:, 1:] != plane[:, :-1])
    edges[1:] = np.maximum(edges[1:], plane[1:] != plane[:-1])
    rim = np.clip(1 - np.abs(blur(warped(mask, dx, dy), 1.4) - 0.5) * 2.6, 0, 1)
    lines = np.clip(blur(edges, 0.9) * 0.75 * thing + rim, 0, 0.9)
    return np.clip(mix(from_lab(lab), colour("#241c16"), lines), 0, 1)


def ukiyoe(image: Image, rng: np.random.Generator) -> Image:
    """A woodblock print: a few mineral colours, one firm key block, a graded sky (bokashi) and the wood's grain.

    Flat blocks by quantisation and the key block by flow-guided differences of Gaussians, as Winnemöller, Olsen &
    Gooch, "Real-Time Video Abstraction", 2006, section 3.
    """
    mask = subject(image)
    palette = np.stack([colour(c) for c in UKIYOE])
    flat = quantised(cv().bilateralFilter(filled(image, mask), 9, 0.2, 7.0), mask, 7, rng)
    lab, inks = to_lab(flat), to_lab(palette[None])[0]
    lab[..., 0] = 22 + 0.78 * lab[..., 0]
    weights = np.array([0.45, 1.0, 1.0], np.float32)
    choice = (((lab[:, :, None] - inks[None, None]) * weights) ** 2).sum(3).argmin(2)
    body = mix(flat, palette[choice], 0.8)
    height, width = mask.shape
    ramp = np.broadcast_to(np.linspace(0, 1, height, dtype=np.float32)[:, None], (height, width))
    sky = mix(
        np.broadcast_to(colour("#eadfc0"), image.shape).astype(np.float32),
        colour("#24568c"),
        np.clip(1 - ramp * 3.2, 0, 1) ** 1.3,
    )
    sky = mix(sky, colour("#d7946a"), np.clip(1 - np.abs(ramp - 0.62) * 5, 0, 1) * 0.35)
    sea = np.clip((ramp - 0.8 + 0.008 * np.sin(np.arange(width, dtype=np.float32) / 9)[None]) * 60, 0, 1)
    sky = mix(
        sky,
        mix(np.broadcast_to(colour("#2f6f93"), image.shape).astype(np.float32), colour("#1b3a66"), (ramp - 0.8) * 5),
        sea,
    )
    grain = blur(
        rng.standard_normal((height, 1)).astype(np.float32).repeat(width, 1) + 0.8 * fractal(image.shape, 90, rng, 2),
        1.0,
    )
    grain = (
        np.sin(np.cumsum(np.full((height, width), 0.75, np.float32), 0) + 2.2 * fractal(image.shape, 110, rng, 2))
        + 0.5 * grain
    )
    print_ = mix(sky, body, soft(mask, 0.7)) * (1 + 0.022 * grain[..., None])
    grey = 0.35 + 0.65 * luminance(filled(image, mask))  # lifted: a dark thing gets lines too, and does not drown
    key = 1 - flow_dog(grey, image, sigma=1.3, p=20.0, epsilon=0.4, phi=10.0)
    rim = np.clip(1 - np.abs(blur(mask, 1.4) - 0.5) * 3, 0, 1)
    lines = np.maximum(np.clip(key, 0, 1) * mask, rim)
    return np.clip(mix(print_.astype(np.float32), colour("#1c1d2b"), soft(lines.astype(np.float32), 0.5)), 0, 1)


UKIYOE = ("#b8402f", "#2c4f80", "#6d8f5a", "#e0b64c", "#efe3c8", "#8a6a4c", "#474a57", "#d98f76", "#7ea6b8")
"""Vermilion, Prussian blue, verdigris, orpiment, paper, umber, sumi, safflower pink, indigo wash."""

PIXEL = 8
"""Pixels of the picture to one of the art's."""


def pixel_art(image: Image, rng: np.random.Generator) -> Image:
    """A grid of 32, twelve colours, a dark outline: Gerstner et al., "Pixelated Image Abstraction", 2012.

    Their superpixels become plain cells (icons lie straight already); the palette comes from clusters in L*a*b*
    (section 4.2).
    """
    mask = subject(image)
    height, width = mask.shape
    small = (width // PIXEL, height // PIXEL)
    inside = cv().resize(mask, small, interpolation=cv().INTER_AREA) > 0.5
    body = cv().resize(filled(image, mask), small, interpolation=cv().INTER_AREA)
    hsv = to_hsv(body)
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.2, 0, 1)
    cells = quantised(from_hsv(hsv), inside.astype(np.float32), 10, rng)
    grown = cv().dilate(inside.astype(np.uint8), cv().getStructuringElement(cv().MORPH_CROSS, (3, 3)))
    outline = (grown > 0) & ~inside
    sheet = np.full_like(cells, 1.0)
    sheet[inside] = cells[inside]
    sheet[outline] = colour("#221c35")
    return cv().resize(sheet, (width, height), interpolation=cv().INTER_NEAREST)


def paper_cut(image: Image, rng: np.random.Generator) -> Image:
    """Layers of coloured card, each throwing a soft shadow on the one beneath, on a pastel sheet.

    Layers are nested bands of lightness of each flat colour (as in Meng, Zhao & Zhu, "Artistic paper-cut of human
    portraits", 2010, section 3: regions become sheets), lit from above left.
    """
    mask = subject(image)
    flat = quantised(cv().bilateralFilter(filled(image, mask), 11, 0.3, 9.0), mask, 5, rng)
    order = np.unique(np.round(luminance(flat), 4)[mask > 0.5])
    sheet = np.broadcast_to(colour(PASTELS[int(rng.integers(len(PASTELS)))]), image.shape).astype(np.float32)
    height, width = mask.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    for margin, tone in ((0.47, 0.93), (0.385, 1.07)):
        around = (np.hypot(xs - width / 2, ys - height / 2) < margin * width).astype(np.float32)
        sheet = _laid(sheet, np.clip(sheet * tone, 0, 1), around, 5.0)
    sheet = _laid(sheet, np.full_like(sheet, 0.985), _rounded(cv().dilate(mask, _disc(6)), 2.0), 5.0)
    for light in order if len(order) <= 6 else order[:: len(order) // 5]:
        above = ((luminance(flat) >= light - 1e-3) & (mask > 0.5)).astype(np.float32)
        clean = cv().morphologyEx(cv().morphologyEx(above, cv().MORPH_OPEN, _disc(2)), cv().MORPH_CLOSE, _disc(2))
        sheet = _laid(sheet, blur(flat, 0.6), _rounded(clean, 1.5), 4.0)
    grain = fractal(image.shape, 4, rng, 2)
    return np.clip(sheet * (1 + 0.014 * grain[..., None]), 0, 1).astype(np.float32)


PASTELS = ("#9fd3d6", "#f3c5a8", "#b9c7ea", "#cfe0a6")


def _laid(below: Image, card: Image, shape: Field, depth: float) -> Image:
    """Lay a card of that shape over the sheet, with its shadow and a light cut edge."""
    shadow = blur(warped(shape, np.full_like(shape, -depth * 0.8), np.full_like(shape, -depth)), depth * 0.55)
    below = mix(below, below * 0.42, np.clip(shadow - shape * 0.2, 0, 1) * 0.85)
    placed = mix(below, card, soft(shape, 0.7))
    edge = np.clip(shape - warped(shape, np.full_like(shape, -1.2), np.full_like(shape, -1.6)), 0, 1)
    return mix(placed, np.ones(3, np.float32), soft(edge, 0.5) * 0.45)


def _rounded(mask: Field, sigma: float) -> Field:
    """Corners as scissors leave them."""
    return np.clip((blur(mask, sigma) - 0.5) * 6 + 0.5, 0, 1).astype(np.float32)


def _disc(radius: int) -> Field:
    return cv().getStructuringElement(cv().MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
