"""Deterministic pictures of an imaginary object, with and without a defect: the same bits from the same seed everywhere."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.errors import UsageError
from zsad.verification.tiny_clip import unit_noise

__all__ = ["described_pictures", "resized_masks", "resized_pictures", "tiny_pictures"]

DESCRIPTION = re.compile(r"test_images\(seed, (\d+), defects=\[([^\]]*)\]")
Floats = NDArray[np.float64]


def described_pictures(settings: dict[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pictures and masks that a fixture's settings describe in ``images``: ``test_images(seed, 9, defects=[...])``.

    Raises:
        UsageError: the description has another form.
    """
    hit = DESCRIPTION.match(settings["images"])
    if not hit:
        raise UsageError(
            f"The pictures are described as {settings['images'][:80]!r}; test_images(seed, N, defects=[...]) is needed."
        )
    defects = [word.strip() == "True" for word in hit[2].split(",")]
    if len(defects) != int(hit[1]):
        raise UsageError(f"The settings describe {hit[1]} pictures, and {len(defects)} of them as with or without a defect.")
    return tiny_pictures(settings["seed"], defects)


def tiny_pictures(
    seed: int, defects: list[bool], size: tuple[int, int] = (150, 110)
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pictures that share a field of colours, a pattern and a weave, each with its own shading and grain.

    Args:
        seed: of the object.
        defects: per picture, whether it has one ellipse of another colour and rough texture.
        size: height and width.

    Returns:
        Pictures (N, H, W, 3) and masks (N, H, W), 1 = defect; uint8.
    """
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    fields = [
        120.0 + 38.0 * _field(seed, f"img/coarse{c}", size, 3) + 22.0 * _field(seed, f"img/mid{c}", size, 9) for c in range(3)
    ]
    weave = ((np.floor(x / 5.0) + np.floor(y / 7.0)) % 2.0) * 18.0 - 9.0
    base = np.stack(fields, axis=-1) + weave[..., None]
    images, masks = [], []
    for number, defective in enumerate(defects):
        shade = 8.0 * _field(seed, f"img/{number}/shade", size, 2)
        image = base + shade[..., None] + 7.0 * unit_noise(seed, f"img/{number}/grain", (height, width, 3))
        inside = np.zeros(size, dtype=bool)
        if defective:
            u = unit_noise(seed, f"img/{number}/blob", (7,)) / 3.5  # each in -1 to 1: centre, radii, colour
            centre, radii = (height * (0.5 + 0.3 * u[0]), width * (0.5 + 0.3 * u[1])), (0.12 + 0.04 * u[2], 0.14 + 0.04 * u[3])
            inside = ((y - centre[0]) / (height * radii[0])) ** 2 + ((x - centre[1]) / (width * radii[1])) ** 2 <= 1.0
            colour = np.array([200.0 + 50.0 * u[4], 60.0 + 50.0 * u[5], 70.0 + 60.0 * u[6]])
            rough = 30.0 * unit_noise(seed, f"img/{number}/rough", (height, width, 1))
            image = np.where(inside[..., None], 0.25 * image + 0.75 * colour + rough, image)
        images.append(np.floor(np.clip(image, 0.0, 255.0) + 0.5).clip(0, 255).astype(np.uint8))
        masks.append(inside.astype(np.uint8))
    return np.stack(images), np.stack(masks)


def resized_pictures(pictures: NDArray[np.uint8], size: int) -> Tensor:
    """Pictures (N, H, W, 3) resized to a square as the authors' loaders do: (N, size, size, 3) uint8."""
    return torch.stack([_resized(picture, size, Image.Resampling.BICUBIC) for picture in pictures])


def resized_masks(masks: NDArray[np.uint8], size: int) -> Tensor:
    """Masks (N, H, W), above 0 a defect, resized as grey pictures and cut at one half: (N, size, size), 0 or 1."""
    grey = [_resized((mask > 0).astype(np.uint8) * np.uint8(255), size, Image.Resampling.BILINEAR) for mask in masks]
    return (torch.stack(grey).double() / 255 > 0.5).float()


def _resized(picture: NDArray[np.uint8], size: int, method: Image.Resampling) -> Tensor:
    return torch.from_numpy(np.array(Image.fromarray(picture).resize((size, size), method)))


def _field(seed: int, name: str, size: tuple[int, int], cells: int) -> Floats:
    """Value noise: a lattice of ``cells`` + 1 points a side, interpolated by smoothstep."""
    lattice = unit_noise(seed, name, (cells + 1, cells + 1))
    (rows, down), (columns, right) = (_places(length, cells) for length in size)
    a, b = lattice[rows][:, columns], lattice[rows][:, columns + 1]
    c, d = lattice[rows + 1][:, columns], lattice[rows + 1][:, columns + 1]
    top, bottom = a + (b - a) * right[None, :], c + (d - c) * right[None, :]
    found: Floats = top + (bottom - top) * down[:, None]
    return found


def _places(length: int, cells: int) -> tuple[NDArray[np.int64], Floats]:
    """Per pixel of an axis, its cell and how far it lies within it, by smoothstep."""
    place = (np.arange(length, dtype=np.float64) + 0.5) / length * cells
    cell = np.minimum(place.astype(np.int64), cells - 1)
    part = place - cell
    return cell, part * part * (3.0 - 2.0 * part)
