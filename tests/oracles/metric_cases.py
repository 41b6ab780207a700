"""Small sets of maps and masks with difficult cases: ties, one-pixel regions, corners that touch, constant maps, odd sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

Case = tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]
SEEDS = range(24)


def case(seed: int, pictures: int = 5) -> Case:
    """At least one normal picture and one region; the rest depends on the seed."""
    rng = np.random.default_rng(seed)
    kind = ("continuous", "tied", "two values", "one constant map", "negative", "sizes")[seed % 6]
    maps, masks = [], []
    for number in range(pictures):
        size = (9, 11) if kind != "sizes" else (int(rng.integers(5, 12)), int(rng.integers(5, 12)))
        mask = np.zeros(size, np.uint8)
        if number % 2:
            mask[1, 1] = mask[2, 2] = 1  # touch at a corner: one region
            mask[-1, -1] = int(rng.integers(0, 2))  # one pixel
            mask[4 : 4 + rng.integers(1, 4), 0 : rng.integers(2, 5)] = 1
        one = rng.normal(size=size) + mask * rng.uniform(0, 3)
        if kind == "tied":
            one = np.round(one * 2) / 2
        elif kind == "two values":
            one = (one > 0.7).astype(float)
        elif kind == "one constant map" and number == 2:
            one = np.full(size, 1.25)
        elif kind == "negative":
            one = -np.exp(one) * 1e-20
        maps.append(one.astype(np.float32))
        masks.append(mask * 255 if seed % 2 else mask)
    return maps, masks


def lattice(pictures: int = 8, size: int = 48) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(N, H, W) maps and masks of integer arithmetic only: the same on every machine, for golden numbers."""
    n, y, x = np.ogrid[:pictures, :size, :size]
    masks = ((n % 2 == 1) & ((x - 10 - n) ** 2 + (y - 14) ** 2 < 30 + n)) | ((n % 4 == 3) & (y > 40) & (x > 30) & (x < 36))
    noise = (n * 7919 + y * 104729 + x * 1299709 + (x * y * 31 + y * y * 17 + n * x * 13) ** 2) % 1009
    return ((noise + 350 * masks) / 2048).astype(np.float32), masks.astype(np.uint8)
