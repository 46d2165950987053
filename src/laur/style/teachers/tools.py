"""What painters share: colours between 0 and 1, blurs, noise, the subject's mask and the direction of its edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from laur.core.errors import MissingDependencyError

Image = NDArray[np.floating[Any]]
"""(H, W, 3), RGB between 0 and 1."""
Field = NDArray[np.floating[Any]]
"""(H, W)."""
Bytes = NDArray[np.uint8]
"""(H, W, 3), RGB."""
PAPER = 0.955
"""Channels that all lie above it are background where they hang together with the border."""


def cv() -> Any:
    """OpenCV, or one line on how to get it."""
    try:
        import cv2
    except ImportError:
        raise MissingDependencyError(
            "teachers of styles need OpenCV; install it with: pip install 'lcm-laur[train]'"
        ) from None
    return cv2


def as_float(picture: Bytes) -> Image:
    """0 … 255 to 0 … 1."""
    return picture.astype(np.float32) / np.float32(255)


def as_bytes(image: Image) -> Bytes:
    """0 … 1 to 0 … 255, what lies outside cut off."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def colour(code: str) -> NDArray[np.floating[Any]]:
    """(3,) of "#rrggbb"."""
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / np.float32(255)


def blur(values: NDArray[np.floating[Any]], sigma: float) -> NDArray[np.float32]:
    """By a Gaussian; borders are mirrored."""
    return cv().GaussianBlur(values, (0, 0), sigma) if sigma > 0 else values


def luminance(image: Image) -> Field:
    """Rec. 601, as the older papers take it."""
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def mix(below: NDArray[np.floating[Any]], above: Any, alpha: Any) -> Image:
    """below + alpha · (above - below); a field is spread over the channels."""
    weight = np.asarray(alpha, np.float32)
    weight = weight[..., None] if weight.ndim == 2 else weight
    return (below + weight * (np.asarray(above, np.float32) - below)).astype(np.float32)


def screen(below: Image, light: Any) -> Image:
    """Add light as film does: 1 - (1 - a) (1 - b)."""
    return (1 - (1 - below) * (1 - np.clip(light, 0, 1))).astype(np.float32)


def to_lab(image: Image) -> Image:
    """CIE L*a*b*: 0 … 100 and about -127 … 127."""
    return cv().cvtColor(np.clip(image, 0, 1).astype(np.float32), cv().COLOR_RGB2Lab)


def from_lab(lab: Image) -> Image:
    """And back, inside the gamut."""
    return np.clip(cv().cvtColor(lab.astype(np.float32), cv().COLOR_Lab2RGB), 0, 1)


def to_hsv(image: Image) -> Image:
    """Hue in degrees, saturation and value between 0 and 1."""
    return cv().cvtColor(np.clip(image, 0, 1).astype(np.float32), cv().COLOR_RGB2HSV)


def from_hsv(hsv: Image) -> Image:
    """And back."""
    return np.clip(cv().cvtColor(hsv.astype(np.float32), cv().COLOR_HSV2RGB), 0, 1)


def fractal(shape: tuple[int, ...], scale: float, rng: np.random.Generator, octaves: int = 4) -> Field:
    """Fractal noise, mean 0 and deviation 1; `scale` is the size of its largest features in pixels (Perlin 1985)."""
    height, width = shape[:2]
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cell = max(1.0, scale / 2**octave)
        coarse = rng.standard_normal((int(height / cell) + 3, int(width / cell) + 3)).astype(np.float32)
        fine = cv().resize(coarse, None, fx=cell, fy=cell, interpolation=cv().INTER_CUBIC)
        total += fine[:height, :width] / 2**octave
    return (total - total.mean()) / max(float(total.std()), 1e-6)


def same_always(number: int) -> np.random.Generator:
    """For what is the same in every picture of a style: where a ground's shapes lie, say.

    No prompt says where a cloud or a tower is, so of what moves about a model can learn the mean alone, in few steps
    above all.
    """
    return np.random.default_rng(number)


def subject(image: Image) -> Field:
    """1 where something is drawn, 0 on the white about it; white inside belongs to the subject."""
    white = (image.min(axis=2) > PAPER).astype(np.uint8)
    framed = np.pad(white, 1, constant_values=1)
    _, labels = cv().connectedComponents(framed, connectivity=4)
    return (labels != labels[0, 0])[1:-1, 1:-1].astype(np.float32)


def soft(mask: Field, sigma: float = 0.8) -> Field:
    """A mask with smooth edges."""
    return blur(mask, sigma)


def filled(image: Image, mask: Field, *, sigma: float = 6.0) -> Image:
    """The subject's colours carried on over its edges, so that nothing white bleeds in when it is moved or blurred."""
    inside = cv().erode(mask, np.ones((3, 3), np.uint8))
    weight = blur(inside, sigma) + 1e-4
    spread = blur((image * inside[..., None]).astype(np.float32), sigma) / weight[..., None]
    far = (image * inside[..., None]).sum((0, 1)) / max(float(inside.sum()), 1.0)
    spread = mix(np.broadcast_to(far, image.shape).astype(np.float32), spread, np.clip(weight * 50, 0, 1))
    return np.clip(mix(spread, image, inside), 0, 1)


def warped(values: NDArray[np.floating[Any]], dx: Field, dy: Field) -> NDArray[np.float32]:
    """values[y + dy, x + dx], the border carried on."""
    height, width = values.shape[:2]
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    return cv().remap(
        values,
        xs + dx.astype(np.float32),
        ys + dy.astype(np.float32),
        cv().INTER_LINEAR,
        borderMode=cv().BORDER_REPLICATE,
    )


def gradient(values: Field) -> tuple[Field, Field]:
    """By x and by y (Sobel)."""
    return (
        cv().Sobel(values, cv().CV_32F, 1, 0, scale=0.125),
        cv().Sobel(values, cv().CV_32F, 0, 1, scale=0.125),
    )


def tensor_field(image: Image, sigma: float) -> tuple[Field, Field]:
    """The smoothed structure tensor's direction along edges, in radians, and its anisotropy 0 … 1.

    Kyprianidis & Kang, "Image and Video Abstraction by Coherence-Enhancing Filtering", 2011, section 3.1.
    """
    gx, gy = gradient(luminance(image))
    xx, yy, xy = (blur(product, sigma) for product in (gx * gx, gy * gy, gx * gy))
    root = np.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    return angle.astype(np.float32), (root / (xx + yy + 1e-8)).astype(np.float32)


def quantised(image: Image, mask: Field, count: int, rng: np.random.Generator) -> Image:
    """Flat colours: k-means in L*a*b* over the subject."""
    lab = to_lab(image)
    inside = lab[mask > 0.5]
    if len(inside) < count:
        return image
    cv().setRNGSeed(int(rng.integers(2**31 - 1)))
    sample = np.ascontiguousarray(inside[rng.permutation(len(inside))[:4000]], np.float32)
    stop = (cv().TERM_CRITERIA_EPS + cv().TERM_CRITERIA_MAX_ITER, 20, 0.5)
    _, _, centres = cv().kmeans(sample, count, None, stop, 2, cv().KMEANS_PP_CENTERS)
    distance = ((lab[:, :, None, :] - centres[None, None]) ** 2).sum(3)
    return from_lab(centres[distance.argmin(2)])
