"""Genres: noir, cyberpunk, science fiction, fantasy; and surrealism. Each is a palette, a light and a place."""

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
    from_lab,
    gradient,
    luminance,
    mix,
    same_always,
    screen,
    soft,
    subject,
    to_lab,
    warped,
)


def _grid(image: Image) -> tuple[Field, Field]:
    """x and y, each 0 … 1."""
    height, width = image.shape[:2]
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    return xs / width, ys / height


def _flat(image: Image, code: str) -> Image:
    return np.broadcast_to(colour(code), image.shape).astype(np.float32)


def _rim(mask: Field, sigma: float, dx: float, dy: float) -> Field:
    """Light along the edges that face (dx, dy): Lambert on a pillow raised from the mask."""
    gx, gy = gradient(blur(mask, sigma))
    return (np.clip(-(gx * dx + gy * dy) * sigma * 9, 0, 1) * mask).astype(np.float32)


def noir(image: Image, _: np.random.Generator) -> Image:
    """Black and white in low key: hard light from the left, the right half in the dark but for its rim, a lamp's pool
    of light on the wall behind the thing, and its shadow there.

    Two-tone by a soft threshold (XDoG 2012, equation 5); light and shadow after the low-key scheme of film noir. All
    light follows the thing: bands of a blind, at fixed places of the picture, are not learned by a convolution, which
    does not know where it is. Black and white are those of a print, 0.165 and 0.82: in the latents of mini, greys
    between these lie along a line, while black has yellow beside it, so that what is drawn a little off is a stain
    (benchmarks/latent_lines.py).
    """
    mask = subject(image)
    xs, ys = _grid(image)
    grey = luminance(filled(image, mask))
    inside = grey[mask > 0.5]
    middle = float(np.median(inside)) if len(inside) else 0.5
    tone = 0.5 + 0.5 * np.tanh((blur(grey, 1.2) - middle * 0.82) * 4)
    columns = np.nonzero(mask.max(0) > 0.5)[0]
    half = max(float(np.ptp(columns)) / mask.shape[1] / 2, 0.1) if len(columns) else 0.3
    cx, cy = _centre(mask)
    side = 0.5 - 0.5 * np.tanh(((xs - cx) / half + 0.25 * (ys - 0.5) - 0.22) * 2.8)
    wall = 0.02 + 0.33 * np.exp(-((np.hypot(xs - cx + 0.08, ys - cy + 0.05) / 0.36) ** 2))
    cast = np.clip(blur(warped(mask, np.full_like(xs, -26.0), np.full_like(xs, -10.0)), 4.0), 0, 1)
    wall = wall * (1 - 0.85 * cast)
    body = (
        (0.16 + 0.86 * tone) * (0.07 + 0.95 * side)
        + 0.42 * _rim(mask, 3.0, 1.0, -0.4)
        + 0.2 * _rim(mask, 3.0, -1.0, -0.6)
    )
    scene = mix(wall[..., None].astype(np.float32), np.clip(body, 0, 1)[..., None], soft(mask, 0.8))[..., 0]
    return np.repeat(0.165 + 0.655 * np.clip(scene[..., None], 0, 1), 3, 2).astype(np.float32)


def _centre(mask: Field) -> tuple[float, float]:
    ys, xs = np.nonzero(mask > 0.5)
    return (float(xs.mean() / mask.shape[1]), float(ys.mean() / mask.shape[0])) if len(xs) else (0.5, 0.5)


def cyberpunk(image: Image, _: np.random.Generator) -> Image:
    """Magenta and cyan neon on wet black: tone mapped to a duotone, contours that glow, a lit skyline, a reflection.

    Glow is the bloom of Spencer et al., "Physically-Based Glare Effects for Digital Images", 1995, as two Gaussians.
    """
    mask = subject(image)
    xs, ys = _grid(image)
    night = mix(_flat(image, "#0a0620"), colour("#3b0f52"), np.clip(1 - np.abs(ys - 0.62) * 3, 0, 1))
    night = _skyline(night, xs, ys, same_always(1982))
    lab = to_lab(filled(image, mask))
    tone = np.clip(lab[..., 0] / 100, 0, 1)
    dark, cyan, pink = colour("#120a35"), colour("#19e3ff"), colour("#ff2bd0")
    body = mix(np.broadcast_to(dark, image.shape).astype(np.float32), colour("#5a2bd6"), np.clip(tone * 1.3, 0, 1))
    body = mix(body, from_lab(np.stack([lab[..., 0] * 0.72, lab[..., 1] * 1.3, lab[..., 2] * 1.3], 2)), 0.5)
    body = screen(body, 0.75 * _rim(mask, 5.0, -1, -0.3)[..., None] * cyan)
    body = screen(body, 0.75 * _rim(mask, 5.0, 1, 0.2)[..., None] * pink)
    edges = np.clip(np.hypot(*gradient(blur(luminance(image), 1.0))) * 9 - 0.15, 0, 1) * soft(
        cv().dilate(mask, np.ones((3, 3), np.uint8))
    )
    hue = mix(np.broadcast_to(cyan, image.shape).astype(np.float32), pink, np.clip((xs + ys - 0.6) * 1.8, 0, 1))
    scene = mix(night, body, soft(mask, 0.8))
    light = edges[..., None] * hue
    glow = blur(light.astype(np.float32), 4.0) * 1.6 + blur(light.astype(np.float32), 12.0) * 1.8
    scene = screen(screen(scene, light), np.clip(glow, 0, 1) * 0.8)
    wet = np.clip((ys - 0.86) * 9, 0, 1) * 0.45
    mirror = warped(blur(scene, 2.0), np.zeros_like(xs), ((0.86 - ys) * 2 * image.shape[0]).astype(np.float32))
    return np.clip(mix(scene, mirror, wet), 0, 1)


def _skyline(night: Image, xs: Field, ys: Field, rng: np.random.Generator) -> Image:
    """Towers with a few lit windows, far away."""
    height, width = xs.shape
    scene = night
    left = 0
    while left < width:
        wide = int(rng.integers(18, 38))
        top = int(height * rng.uniform(0.30, 0.62))
        scene[top : int(height * 0.88), left : left + wide - 3] *= 0.42
        for wy in range(top + 7, int(height * 0.84), 11):
            for wx in range(left + 4, left + wide - 8, 8):
                if rng.random() < 0.32:
                    lit = colour(("#ff3fc8", "#22d7ff", "#ffb84d")[int(rng.integers(3))])
                    scene[wy : wy + 5, wx : wx + 4] = mix(scene[wy : wy + 5, wx : wx + 4], lit, 0.62)
        left += wide
    return blur(scene, 1.1)


def science_fiction(image: Image, _moving: np.random.Generator) -> Image:
    """A metal thing in space: cool specular shading, panel lines, a blue rim light, stars, a planet's limb."""
    mask = subject(image)
    xs, ys = _grid(image)
    rng = same_always(1968)
    sky = mix(
        _flat(image, "#1a2350"), colour("#2a4f86"), np.clip(fractal(image.shape, 120, rng, 3) * 0.2 + 0.25, 0, 0.6)
    )
    stars = np.zeros(mask.shape, np.float32)
    for _ in range(44):
        spot = (int(rng.integers(mask.shape[1])), int(rng.integers(mask.shape[0])))
        cv().circle(stars, spot, int(rng.random() < 0.4) + 1, float(rng.uniform(0.6, 1)), -1, cv().LINE_AA)
    sky = screen(sky, stars[..., None] * colour("#dcefff"))
    limb = np.hypot(xs - 0.92, (ys - 1.25)) - 0.62
    planet = np.clip(-limb * 80, 0, 1)
    sky = mix(sky, mix(_flat(image, "#1d3a66"), colour("#2b7fb8"), np.clip(1 + limb * 5, 0, 1)), planet)
    sky = screen(sky, np.clip(1 - np.abs(limb) * 26, 0, 1)[..., None] * colour("#6fd0ff") * 0.8)
    body = filled(image, mask)
    lab = to_lab(body)
    lab[..., 1:] *= 0.62
    lab[..., 2] -= 7
    lab[..., 0] = np.clip((lab[..., 0] - 50) * 1.15 + 52, 26, 94)
    metal = from_lab(lab)
    height = blur(mask, 7.0) * 0.7 + luminance(body) * 0.3
    gx, gy = gradient(blur(height, 1.5))
    shine = np.clip(-(gx + 1.3 * gy) * 16, -0.34, 0.6)
    brushed = np.sin(blur(height, 1.5) * 22)[..., None] * 0.05
    metal = np.clip(metal + shine[..., None] + brushed, 0.15, 1)
    metal = mix(metal, metal * 0.6, _panels(mask))
    metal = screen(metal, _rim(mask, 4.0, 1, 0.5)[..., None] * colour("#3fb6ff") * 0.95)
    scene = mix(sky, metal, soft(mask, 0.8))
    halo = np.clip(blur(mask, 9.0) - mask, 0, 1)
    return np.clip(screen(scene, halo[..., None] * colour("#38a8ff") * 0.7), 0, 1)


def _panels(mask: Field) -> Field:
    """Seams of plates, inside the subject."""
    lines = np.zeros(mask.shape, np.float32)
    height, width = mask.shape
    for x in range(18, width, 44):
        cv().line(lines, (x, 0), (x, height), 1.0, 1, cv().LINE_AA)
    for y in range(14, height, 38):
        cv().line(lines, (0, y), (width, y), 1.0, 1, cv().LINE_AA)
    return blur(lines, 0.7) * cv().erode(mask, np.ones((5, 5), np.uint8)) * 0.9


def fantasy(image: Image, rng: np.random.Generator) -> Image:
    """A violet dusk with a golden light behind the subject, mist, and sparks: soft focus after Orton (1980s)."""
    mask = subject(image)
    xs, ys = _grid(image)
    sky = mix(_flat(image, "#2a1650"), colour("#a04b8f"), np.clip(ys * 1.15, 0, 1))
    sky = np.clip(sky + 0.03 * fractal(image.shape, 70, rng, 4)[..., None], 0, 1).astype(np.float32)
    cx, cy = _centre(mask)
    far = np.hypot(xs - cx, ys - cy)
    rays = np.clip(np.sin(np.arctan2(ys - cy, xs - cx) * 14 + 0.8 * fractal(image.shape, 200, rng, 1)), 0, 1)
    sky = screen(
        sky,
        (np.exp(-((far / 0.34) ** 2)) + 0.28 * rays * np.exp(-((far / 0.55) ** 2)))[..., None]
        * colour("#ffd27a")
        * 0.95,
    )
    lab = to_lab(filled(image, mask))
    shade = np.clip((58 - lab[..., 0]) / 58, 0, 1)
    lab[..., 1] += 16 * shade
    lab[..., 2] -= 20 * shade
    lab[..., 0] = np.clip(lab[..., 0] * 0.9 + 3, 0, 100)
    lab[..., 1:] *= 1.15
    body = screen(from_lab(lab), _rim(mask, 4.0, 0, -1)[..., None] * colour("#ffe09a") * 0.95)
    scene = mix(sky, body, soft(mask, 0.8))
    mist = np.clip((ys - 0.74) * 3.4 + 0.16 * fractal(image.shape, 60, rng, 3), 0, 1)
    scene = mix(scene, colour("#d9a8d8"), mist * 0.7)
    scene = screen(scene, blur(scene, 7.0) * 0.34)
    sparks = np.zeros(mask.shape, np.float32)
    for _ in range(26):
        spot = (int(rng.integers(mask.shape[1])), int(rng.integers(mask.shape[0])))
        cv().circle(sparks, spot, int(rng.integers(1, 3)), 1.0, -1, cv().LINE_AA)
    light = np.clip(sparks + blur(sparks, 3.0) * 2.2, 0, 1)
    return np.clip(screen(scene, light[..., None] * colour("#fff0b8")), 0, 1)


def surrealism(image: Image, _: np.random.Generator) -> Image:
    """Things that melt on a wide plain under a dreamy sky, with a long hard shadow (Dalí, 1931).

    The melting is a displacement that grows downwards and drips in columns, a warp in the manner of Beier & Neely,
    "Feature-Based Image Metamorphosis", 1992, with the drops as its control lines.
    """
    mask = subject(image)
    xs, ys = _grid(image)
    size = image.shape[0]
    horizon = 0.66
    rng = same_always(1931)
    sky = mix(_flat(image, "#2f6f9f"), colour("#f6d08a"), np.clip(ys / horizon, 0, 1) ** 1.5)
    cloud = np.clip(warped(fractal(image.shape, 90, rng, 4), np.zeros_like(xs), ys * 60) - 0.7, 0, 1) * np.clip(
        1 - ys / horizon, 0, 1
    )
    sky = mix(sky, colour("#fdeed6"), np.clip(cloud, 0, 0.8))
    plain = mix(_flat(image, "#d9a860"), colour("#7c4f2c"), np.clip((ys - horizon) / (1 - horizon), 0, 1))
    place = mix(sky, plain, np.clip((ys - horizon) * size / 1.5, 0, 1))
    cliff = (
        np.clip((ys - horizon + 0.05 + 0.035 * np.sin(xs * 9) * (xs > 0.62)) * size / 3, 0, 1)
        * (ys < horizon)
        * (xs > 0.6)
    )
    place = mix(place, colour("#b07f52"), cliff.astype(np.float32))
    phase = rng.uniform(0, 2 * np.pi)
    drip = (
        np.clip(np.sin(xs * 2 * np.pi * 2.6 + phase) * 0.6 + np.sin(xs * 2 * np.pi * 4.7 + 2 * phase) * 0.4, 0, 1)
        ** 1.5
    )
    bottom = float(np.nonzero(mask.max(1) > 0.5)[0].max() / size) if mask.any() else 0.9
    low = np.clip((ys - 0.40) / max(bottom - 0.40, 0.1), 0, 2) ** 1.6
    dy = -(drip * low * 34) + 4 + 10 * np.clip(ys - 0.1, 0, 1)
    dx = 7 * np.sin(ys * 2 * np.pi * 1.3 + phase) * np.clip(ys + 0.2, 0, 1)
    body, shape = warped(filled(image, mask), dx, dy), warped(soft(mask, 0.8), dx, dy)
    shadow = _shadow(shape, horizon + 0.03)
    place = mix(place, colour("#3a2430"), blur(shadow, 1.6) * 0.72 * (ys > horizon))
    lab = to_lab(body)
    lab[..., 2] += 9
    lab[..., 0] = np.clip((lab[..., 0] - 50) * 1.05 + 47, 0, 100)
    lit = screen(from_lab(lab), _rim(shape, 4.0, -1, -0.5)[..., None] * colour("#ffdf9c") * 0.8)
    lit = lit * (1 - 0.55 * _rim(shape, 6.0, 1, 0.4)[..., None])
    return np.clip(mix(place, lit.astype(np.float32), shape), 0, 1)


def _shadow(shape: Field, floor: float) -> Field:
    """The subject's shape thrown flat to the right on the plain."""
    size = shape.shape[0]
    rows = np.nonzero(shape.max(1) > 0.5)[0]
    foot = int(rows.max()) if len(rows) else size - 1
    columns = np.nonzero(shape.max(0) > 0.5)[0]
    centre = float(columns.mean()) if len(columns) else size / 2
    source = np.array([[centre, foot], [centre + 60, foot], [centre, foot - 100]], np.float32)
    at = min(foot, size - 6)
    target = np.array([[centre, at], [centre + 60, at], [centre + 92, at - 26]], np.float32)
    thrown = cv().warpAffine(shape, cv().getAffineTransform(source, target), (size, size))
    del floor
    return np.clip(thrown, 0, 1)
