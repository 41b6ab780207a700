"""Auxiliary categories with references: many pictures of one product each, normal and with defects.

A category is different crops of a texture, or an object or a scene that lies as in a fixture (within 3 degrees and 3 % of the
side). Half of the categories have a natural variation that differs between pictures (clouds or grains of up to 25 %
contrast), as wood, leather and cast silicon have. Light, blur and noise are those of one camera.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from auxiliary_pictures import OBJECTS, TEXTURES, photographs
from compact_rules import CHOOSING, REPORTING
from PIL import Image
from scipy import ndimage

from zsad.synthetic.defects import DEFECTS, make_defect
from zsad.synthetic.shapes import smooth_noise

Array: TypeAlias = np.ndarray[Any, Any]
Rng: TypeAlias = np.random.Generator
Piece: TypeAlias = tuple[Array, Array | None]  # picture (float) and where the object is (None: everywhere)
SIDE, WIDE = 256, 640
REFERENCES, NORMAL, TIMES = 16, 12, 2  # per category: references, other normal pictures, defects of each kind
# the head was trained on other pictures of "single" and "board"; the kept-out families have only one kind of object
FAMILIES = {"choosing": (*CHOOSING, "single", "board"), "reporting": REPORTING}
SCENES = ("china", "coffee", "coins")  # photographs whose crops differ too much to be one product


def windows(rng: Rng, wide: Array) -> Callable[[Rng], Piece]:
    """Random crops of one large picture; in a third of the categories also turned by quarters."""
    turns = rng.random() < 1 / 3

    def piece(own: Rng) -> Piece:
        top, left = (int(own.integers(side - SIDE + 1)) for side in wide.shape[:2])
        seen = wide[top : top + SIDE, left : left + SIDE]
        return np.rot90(seen, int(own.integers(4))) if turns else seen, None

    return piece


def fixture(rng: Rng, picture: Array, where: Array | None) -> Callable[[Rng], Piece]:
    """The same picture, a little turned and shifted each time."""
    turn, shift = rng.uniform(0, 3), rng.uniform(0, 0.03) * SIDE

    def piece(own: Rng) -> Piece:
        angle, centre = np.radians(own.uniform(-turn, turn)), np.full(2, (SIDE - 1) / 2)
        matrix = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
        offset = centre - matrix @ centre + own.uniform(-shift, shift, 2)
        moved = [ndimage.affine_transform(picture[..., c], matrix, offset, order=1, mode="nearest") for c in range(3)]
        mask = where if where is None else ndimage.affine_transform(where.astype(np.float32), matrix, offset, order=1) > 0.5
        return np.stack(moved, -1), mask

    return piece


def product(rng: Rng, family: str, known: dict[str, Array]) -> Callable[[Rng], Piece]:
    """Draws one category of a family; the result draws one picture of it."""
    if family in TEXTURES:
        return windows(rng, TEXTURES[family](rng, WIDE))
    if family in OBJECTS:
        return fixture(rng, *OBJECTS[family](rng, SIDE))
    photograph = known[family]
    size = int(rng.uniform(0.5, 0.9) * min(photograph.shape[:2]))
    top, left = (int(rng.integers(side - size + 1)) for side in photograph.shape[:2])
    if family in SCENES:
        seen = Image.fromarray(photograph[top : top + size, left : left + size]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return fixture(rng, np.asarray(seen, np.float32), None)
    scale = rng.uniform(SIDE + 100, WIDE) / min(photograph.shape[:2])
    wide = [round(side * scale) for side in photograph.shape[1::-1]]
    return windows(rng, np.asarray(Image.fromarray(photograph).resize(wide, Image.Resampling.BICUBIC), np.float32))


def varied(rng: Rng) -> Callable[[Rng], Array | float]:
    """Natural variation between pictures: a factor (S, S, 1), or 1 for half of the categories."""
    if rng.random() < 0.5:
        return lambda own: 1.0
    strength, roughness = rng.uniform(0.05, 0.25), rng.uniform(3, 30)
    cells = int(rng.integers(30, 200)) if rng.random() < 0.5 else 0

    def factor(own: Rng) -> Array:
        if not cells:
            return np.asarray(1 + strength * smooth_noise(own, (SIDE, SIDE), roughness, 3)[..., None])
        points, tones = own.uniform(0, SIDE, (cells, 2)), own.normal(0, 1, cells)
        near = ndimage.distance_transform_edt(_free(points), return_distances=False, return_indices=True)
        owner = np.zeros((SIDE, SIDE), int)
        owner[tuple(points.astype(int).T)] = np.arange(cells)
        return np.asarray(1 + 0.5 * strength * tones[owner[tuple(near)]][..., None])

    return factor


def _free(points: Array) -> Array:
    free = np.ones((SIDE, SIDE), bool)
    free[tuple(points.astype(int).T)] = False
    return free


def one_camera(rng: Rng) -> Callable[[Rng, Array], Array]:
    """One camera and one lamp: uneven light, blur and noise of one strength; float -> uint8."""
    light, blur, noise, exposure = rng.uniform(0, 0.08), rng.uniform(0, 1), rng.uniform(0.3, 4), rng.uniform(0, 0.04)

    def take(own: Rng, picture: Array) -> Array:
        picture = picture * (1 + own.uniform(-exposure, exposure) + light * smooth_noise(own, (SIDE, SIDE), 1.5)[..., None])
        picture = ndimage.gaussian_filter(picture, (blur, blur, 0))
        return np.clip(picture + own.normal(0, noise, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)

    return take


def pictures(part: str, per_family: int, seed: int) -> Iterator[tuple[str, str, Array, Array]]:
    """(category, kind, picture, mask) of each category: references ("reference"), normal ("") and defective ones."""
    known, other = photographs(), None
    for family in FAMILIES[part]:
        for number in range(per_family):
            rng = np.random.default_rng((seed, zlib.crc32(family.encode()), number))
            draw, nature, camera = product(rng, family, known), varied(rng), one_camera(rng)
            for kind in ["reference"] * REFERENCES + [""] * NORMAL + list(DEFECTS) * TIMES:
                picture, where = draw(rng)
                rgb, mask = camera(rng, picture * nature(rng)), np.zeros((SIDE, SIDE), np.uint8)
                if kind in DEFECTS:
                    rgb, mask, _ = make_defect(rgb, rng, kind, where, other)
                yield f"{family}-{number}", kind, rgb, mask
            other = rgb
