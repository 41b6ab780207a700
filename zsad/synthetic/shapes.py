"""Random shapes, lines, colours and noise: the primitives of synthetic defects."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

__all__ = [
    *("any_colour", "blend", "blob", "border_colour", "is_grey", "length_between", "place", "polygon", "sign", "smooth_noise"),
    *("stroke", "surrounding", "walk"),
]

Array: TypeAlias = np.ndarray[Any, Any]
Rng: TypeAlias = np.random.Generator


def smooth_noise(rng: Rng, shape: tuple[int, int], cells: float, octaves: int = 1) -> Array:
    """(H, W) float32 noise of mean 0 and deviation 1 with about ``cells`` bumps along the longer side, halved per octave."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        bumps = cells * 2**octave / max(shape)
        small = rng.standard_normal([max(2, round(side * bumps) + 1) for side in shape]).astype(np.float32)
        wide = Image.fromarray(small).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        total += np.asarray(wide) / 2**octave
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), np.float32)


def length_between(rng: Rng, shape: tuple[int, int], low: float, high: float) -> float:
    """A length in pixels, log-uniform between two parts of the shorter side."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))) * min(shape))


def place(rng: Rng, shape: tuple[int, int], where: Array | None) -> tuple[float, float]:
    """A place (row, column), inside ``where`` if that is given and not empty."""
    inside = np.flatnonzero(where) if where is not None else np.empty(0, int)
    if inside.size:
        return divmod(float(rng.choice(inside)), shape[1])
    return float(rng.uniform(0.04, 0.96) * shape[0]), float(rng.uniform(0.04, 0.96) * shape[1])


def blob(rng: Rng, shape: tuple[int, int], where: Array | None, radius: float, rough: float = 0.35, soft: float = 1.0) -> Array:
    """(H, W) in [0, 1]: an irregular ellipse with an edge ``soft`` pixels wide."""
    row, column = place(rng, shape, where)
    turn, flat = rng.uniform(0, np.pi), rng.uniform(0.45, 1.0)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    y, x = y - row, x - column
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.hypot(along, across / flat)
    wobble = smooth_noise(rng, shape, max(shape) / (radius + 4), 2) * rough * radius * 0.5
    return np.asarray(np.clip((radius + wobble - distance) / soft + 0.5, 0, 1))


def polygon(rng: Rng, shape: tuple[int, int], where: Array | None, radius: float) -> Array:
    """(H, W) in [0, 1]: an irregular polygon of five to eight corners with a sharp edge."""
    count = int(rng.integers(5, 9))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    row, column = place(rng, shape, where)
    reach = radius * rng.uniform(0.5, 1.3, count)
    canvas = Image.new("L", (shape[1], shape[0]))
    corners = [(column + r * np.cos(a), row + r * np.sin(a)) for r, a in zip(reach, angles, strict=True)]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return np.asarray(ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255, 0.6))


def walk(rng: Rng, shape: tuple[int, int], where: Array | None, length: float, curl: float, jag: float = 0.0) -> Array:
    """(N, 2) points (column, row) of a line: ``curl`` bends it slowly, ``jag`` breaks it at each step (radians)."""
    steps = max(int(length / 3), 3)
    turns = np.cumsum(rng.normal(0, curl / steps**0.5, steps)) + rng.uniform(0, 2 * np.pi) + rng.normal(0, jag, steps)
    moves = np.stack((np.cos(turns), np.sin(turns)), 1) * length / steps
    row, column = place(rng, shape, where)
    points = np.cumsum(moves, 0)
    return np.asarray(points - points[steps // 2] + (column, row))


def stroke(shape: tuple[int, int], points: Array, widths: Array | float) -> Array:
    """(H, W) in [0, 1]: a smooth-edged line through ``points``, ``widths`` pixels wide."""
    scale = 3
    canvas = Image.new("L", (shape[1] * scale, shape[0] * scale))
    draw = ImageDraw.Draw(canvas)
    each = np.broadcast_to(np.asarray(widths, float), (len(points),))
    for (x0, y0), (x1, y1), width in zip(points[:-1] * scale, points[1:] * scale, each[1:], strict=True):
        draw.line((x0, y0, x1, y1), fill=255, width=max(1, round(width * scale)))
    return np.asarray(canvas.resize((shape[1], shape[0]), Image.Resampling.BOX), np.float32) / 255


def blend(rgb: Array, alpha: Array, paint: Array | float) -> Array:
    """(H, W, 3) float: ``paint`` over the picture with opacity ``alpha`` (H, W)."""
    return np.asarray(rgb + (paint - rgb.astype(np.float32)) * alpha[..., None])


def sign(rng: Rng) -> float:
    """-1 or 1."""
    return float(rng.choice((-1.0, 1.0)))


def any_colour(rng: Rng, grey: bool) -> Array:
    """A colour (3,), 0 to 255; a grey one for a grey picture."""
    return np.full(3, rng.uniform(0, 255)) if grey else rng.uniform(0, 255, 3)


def is_grey(rgb: Array) -> bool:
    """Whether the channels of a picture are the same but for a few levels."""
    return bool(np.ptp(rgb[::8, ::8].astype(int), axis=2).mean() < 4)


def border_colour(rgb: Array) -> Array:
    """(3,): the median colour of the picture's outermost four pixels, for an object often the background's."""
    edges = (rgb[:4], rgb[-4:], rgb[:, :4], rgb[:, -4:])
    return np.asarray(np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), 0))


def surrounding(rgb: Array, hole: Array) -> Array:
    """(H, W, 3): the picture's smooth continuation into ``hole`` (normalised blur of what lies outside)."""
    outside = (ndimage.binary_dilation(hole > 0.02, iterations=2) == 0).astype(np.float32)
    filled = np.zeros(rgb.shape, np.float32)
    weight = np.zeros(rgb.shape[:2], np.float32)
    for sigma in (3, 9, 27):  # the narrowest blur that reaches the place counts most
        part = ndimage.gaussian_filter(outside, sigma) * 0.02 ** (sigma / 9)
        filled += ndimage.gaussian_filter(rgb * outside[..., None], (sigma, sigma, 0)) * 0.02 ** (sigma / 9)
        weight += part
    return np.asarray(filled / (weight[..., None] + 1e-9))
