"""Seeded synthetic defects: each function adds one defect to a normal picture and returns picture, mask and defect word.

Each function takes an RGB uint8 picture (H, W, 3), a generator, and optionally ``where`` (H, W) bool, the places that a
defect may start from (the object). It returns the new picture, the mask (H, W) uint8 of what changed (1 = changed) and
the word for it. Strengths and sizes range from faint and small to obvious and large. Sources of the ideas: cut-paste
(Li et al. 2021), noise-mask blending (DRAEM, Zavrtanik et al. 2021); the others are drawn from what the words mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from scipy import ndimage

from zsad.errors import UnknownName
from zsad.synthetic.shapes import (
    any_colour,
    blend,
    blob,
    border_colour,
    is_grey,
    length_between,
    place,
    polygon,
    sign,
    smooth_noise,
    stroke,
    surrounding,
    walk,
)

__all__ = ["DEFECTS", "Defect", "make_defect"]

Array: TypeAlias = np.ndarray[Any, Any]
Defect: TypeAlias = tuple[Array, Array, str]
Rng: TypeAlias = np.random.Generator
CHANGED = 6  # grey levels by which a pixel differs where the mask is 1
SMALLEST = 3e-4  # part of the picture that has to change, or the defect is drawn again


def _with_mask(rgb: Array, after: Array, word: str) -> Defect:
    """Rounds ``after``, and masks what changed; gaps narrower than three pixels inside the change belong to it."""
    result = np.clip(np.rint(after), 0, 255).astype(np.uint8)
    changed = np.abs(result.astype(int) - rgb).max(2) >= CHANGED
    closed = ndimage.binary_closing(np.pad(changed, 3), iterations=2)[3:-3, 3:-3]
    return result, (closed | changed).astype(np.uint8), word


# ------------------------------------------------------------------ defects
def scratch(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """One to three thin, nearly straight lines, light or dark, sometimes with a shadow beside them."""
    shape, after = rgb.shape[:2], rgb.astype(np.float32)
    line = walk(rng, shape, where, length_between(rng, shape, 0.08, 0.7), rng.uniform(0, 0.6))
    gain, shadow = sign(rng) * rng.uniform(18, 110), rng.random() < 0.4
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        widths = rng.uniform(0.5, 2.2) * np.sin(np.linspace(0.3, np.pi - 0.3, len(line)))
        alpha = stroke(shape, line, widths)
        after += (gain * alpha)[..., None]
        if shadow:
            after -= 0.7 * gain * np.roll(alpha, (1, 1), (0, 1))[..., None]
        line = line + rng.normal(0, 0.02 * min(shape), 2)
    return _with_mask(rgb, after, "scratch")


def crack(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """A jagged dark line with branches, thinner towards its ends, sometimes with a light lip."""
    shape = rgb.shape[:2]
    length = length_between(rng, shape, 0.1, 0.7)
    lines = [walk(rng, shape, where, length, 0.9, 0.55)]
    for _ in range(rng.integers(0, 4)):
        branch = walk(rng, shape, where, length * rng.uniform(0.15, 0.5), 0.6, 0.6)
        lines.append(branch - branch[0] + lines[0][rng.integers(len(lines[0]))])
    width = rng.uniform(0.7, 2.4)
    alpha = np.max([stroke(shape, line, width * np.linspace(1, 0.3, len(line))) for line in lines], axis=0)
    after = rgb * (1 - alpha * rng.uniform(0.35, 0.95))[..., None]
    if rng.random() < 0.3:
        after += (np.roll(alpha, (-1, -1), (0, 1)) * rng.uniform(10, 50))[..., None]
    return _with_mask(rgb, after, "crack")


def hole(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """A pit or a hole: a dark (seldom light) inside with a sharp edge, sometimes a lit rim, sometimes several."""
    shape, after = rgb.shape[:2], rgb.astype(np.float32)
    inside = rng.uniform(0, 60) if rng.random() < 0.8 else rng.uniform(200, 255)
    radius = length_between(rng, shape, 0.01, 0.09)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        alpha = blob(rng, shape, where, radius * rng.uniform(0.7, 1.3), 0.2, 1.5)
        if rng.random() < 0.5:
            rim = np.clip(ndimage.gaussian_filter(alpha, 1.5) * 2 - alpha, 0, 1) * (alpha < 0.5)
            after += (rim * sign(rng) * rng.uniform(15, 50))[..., None]
        depth = np.minimum(1, rng.uniform(0.7, 1.0) + 0.15 * smooth_noise(rng, shape, 30))
        after = blend(after, alpha * np.clip(depth, 0.5, 1), inside)
    return _with_mask(rgb, after, "hole")


def stain(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """A soft, transparent patch that darkens or tints, sometimes with a darker rim as a dried drop has."""
    shape = rgb.shape[:2]
    radius = length_between(rng, shape, 0.03, 0.22)
    soft = radius * rng.uniform(0.25, 0.9)
    alpha = blob(rng, shape, where, radius, 0.6, soft)
    if rng.random() < 0.35:
        alpha = 0.5 * alpha + 0.8 * alpha * (1 - alpha) * 2
    tint = 0.25 + 0.75 * any_colour(rng, is_grey(rgb)) / 255
    tint = tint if rng.random() < 0.8 else 2.0 - tint
    strength = rng.uniform(0.25, 0.9) * np.clip(alpha * (1 + 0.15 * smooth_noise(rng, shape, 12, 2)), 0, 1)
    return _with_mask(rgb, rgb * (1 + strength[..., None] * (tint - 1)), "stain")


def contamination(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """Foreign matter that lies on top: specks, a fibre, or a clump with its own shading and shadow."""
    shape, after = rgb.shape[:2], rgb.astype(np.float32)
    paint = any_colour(rng, is_grey(rgb))
    kind = rng.choice(("specks", "fibre", "clump"))
    if kind == "fibre":
        line = walk(rng, shape, where, length_between(rng, shape, 0.15, 0.6), rng.uniform(2, 6))
        alpha = stroke(shape, line, rng.uniform(0.8, 2.5)) * rng.uniform(0.5, 1)
    elif kind == "specks":
        near = blob(rng, shape, where, length_between(rng, shape, 0.05, 0.25), 0.5) > 0.5
        alpha = np.zeros(shape, np.float32)
        for _ in range(rng.integers(3, 16)):
            alpha = np.maximum(alpha, blob(rng, shape, near, rng.uniform(0.8, 3.5), 0.6))
    else:
        alpha = blob(rng, shape, where, length_between(rng, shape, 0.02, 0.12), 0.7, 1.5)
    if rng.random() < 0.5:
        after *= (1 - 0.4 * np.roll(ndimage.gaussian_filter(alpha, 2), (2, 2), (0, 1)) * (1 - alpha))[..., None]
    shading = 25 * smooth_noise(rng, shape, rng.uniform(10, 50), 2)[..., None] * rng.uniform(0, 1)
    return _with_mask(rgb, blend(after, alpha, paint + shading), "contamination")


def missing(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """A part is gone: its place looks as its surroundings do (for an object often: as the background does)."""
    shape = rgb.shape[:2]
    alpha = blob(rng, shape, where, length_between(rng, shape, 0.05, 0.2), 0.3, 2)
    if where is not None and rng.random() < 0.6:
        paint = border_colour(rgb) + rng.normal(0, 3, rgb.shape[:2])[..., None]
        alpha = alpha * where
    else:
        paint = surrounding(rgb, alpha) + rng.normal(0, 2, rgb.shape[:2])[..., None]
    return _with_mask(rgb, blend(rgb, alpha, paint), "missing")


def broken(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """A jagged chip with a fracture face: lighter or darker, rough, its outline sharp; or a piece that has slipped."""
    shape = rgb.shape[:2]
    radius = length_between(rng, shape, 0.05, 0.2)
    alpha = polygon(rng, shape, where, radius)
    if rng.random() < 0.5:
        rough = smooth_noise(rng, shape, 40, 3) * rng.uniform(8, 25) + sign(rng) * rng.uniform(20, 70)
        inside = ndimage.gaussian_filter(rgb.astype(np.float32), (4, 4, 0)) + rough[..., None]
    else:
        slip = rng.uniform(3, 0.5 * radius + 4, 2) * (sign(rng), sign(rng))
        inside = ndimage.shift(rgb.astype(np.float32), (*slip, 0), order=1, mode="nearest")
    edge = np.clip(ndimage.gaussian_gradient_magnitude(alpha, 0.8) * 2, 0, 1) * rng.uniform(0.1, 0.6) * (rng.random() < 0.6)
    return _with_mask(rgb, blend(rgb, alpha, inside) * (1 - edge)[..., None], "broken")


def bent(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """Lines that should be straight are not: the picture is pushed or twisted around one place."""
    shape = rgb.shape[:2]
    row, column = place(rng, shape, where)
    radius = length_between(rng, shape, 0.1, 0.3)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    y, x = y - row, x - column
    fade = np.exp(-(x**2 + y**2) / (2 * (0.5 * radius) ** 2))
    if rng.random() < 0.5:
        turn = sign(rng) * rng.uniform(0.5, 1.4) * fade
        dy, dx = x * np.sin(turn) + y * (np.cos(turn) - 1), x * (np.cos(turn) - 1) - y * np.sin(turn)
    else:
        angle, far = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.25, 0.55)
        dy, dx = far * np.sin(angle) * fade, far * np.cos(angle) * fade
    at = (y + row + dy, x + column + dx)
    after = np.stack(
        [ndimage.map_coordinates(rgb[..., c].astype(np.float32), at, order=1, mode="mirror") for c in range(3)], -1
    )
    return _with_mask(rgb, np.where((np.hypot(dx, dy) > 0.6)[..., None], after, rgb), "bent")


def colour(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """A region of another colour or brightness; its structure stays."""
    shape = rgb.shape[:2]
    radius = length_between(rng, shape, 0.05, 0.3)
    alpha = blob(rng, shape, where, radius, 0.4, rng.uniform(1, 0.4 * radius + 1))
    mean = rgb.mean((0, 1), keepdims=True)
    if is_grey(rgb) and rng.random() < 0.7:
        paint = (rgb - mean) * rng.uniform(0.5, 1.3) + mean + sign(rng) * rng.uniform(18, 80)
    elif rng.random() < 0.5:
        paint = rgb[..., rng.permutation(3)] * rng.uniform(0.7, 1.2, 3)
    else:
        paint = rgb + rng.normal(0, 35, 3)
    return _with_mask(rgb, blend(rgb, alpha * rng.uniform(0.6, 1), paint), "colour")


def cut_paste(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """A piece of the same picture (or of ``source``), turned and shifted, put where it does not belong."""
    shape = rgb.shape[:2]
    alpha = blob(rng, shape, where, length_between(rng, shape, 0.03, 0.18), rng.uniform(0, 0.7), 1.5)
    piece = rgb if source is None or rng.random() < 0.6 else source
    piece = np.rot90(piece, int(rng.integers(1, 4))) if piece.shape[0] == piece.shape[1] else piece[::-1, ::-1]
    piece = np.roll(piece, rng.integers(0, shape, 2), (0, 1)) * rng.uniform(0.85, 1.15)
    return _with_mask(rgb, blend(rgb, alpha, piece), "defect")


def texture_blend(rgb: Array, rng: Rng, where: Array | None = None, source: Array | None = None) -> Defect:
    """Another texture (``source``, or noise) shines through a noise-shaped region."""
    shape = rgb.shape[:2]
    near = blob(rng, shape, where, length_between(rng, shape, 0.08, 0.3), 0.5, 2)
    alpha = near * np.clip((smooth_noise(rng, shape, rng.uniform(4, 20), 2) - rng.uniform(-0.5, 0.6)) * 4, 0, 1)
    if source is None:
        grain = smooth_noise(rng, shape, rng.uniform(8, 80), 3)[..., None]
        source = any_colour(rng, is_grey(rgb)) + grain * any_colour(rng, is_grey(rgb)) * 0.3
    return _with_mask(rgb, blend(rgb, alpha * rng.uniform(0.2, 1), source), "defect")


DEFECTS: dict[str, Callable[..., Defect]] = {
    function.__name__: function
    for function in (scratch, crack, hole, stain, contamination, missing, broken, bent, colour, cut_paste, texture_blend)
}


def make_defect(
    rgb: Array, rng: Rng, kind: str | None = None, where: Array | None = None, source: Array | None = None
) -> Defect:
    """One synthetic defect.

    Args:
        rgb: (H, W, 3) uint8; not changed.
        rng: source of randomness; the same state gives the same defect.
        kind: a name of ``DEFECTS``; None draws one.
        where: (H, W) bool, the object; None: anywhere.
        source: (H, W, 3) uint8, another picture, for the kinds that paste from one.

    Returns:
        The new picture, the mask (H, W) uint8 (1 = changed by ``CHANGED`` grey levels or more), and the defect's word
        ("defect" where there is no specific one). A draw that changes next to nothing is repeated, at most 8 times.

    Raises:
        UnknownName: no such kind.
    """
    if kind is not None and kind not in DEFECTS:
        raise UnknownName.among("synthetic defect", kind, DEFECTS)
    for _ in range(8):
        result = DEFECTS[kind or str(rng.choice(list(DEFECTS)))](rgb, rng, where, source)
        if result[1].mean() >= SMALLEST:
            break
    return result
