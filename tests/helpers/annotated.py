"""Annotated textures with synthetic defects in MVTec's layout, for tests and benchmarks of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth grey noise with a tint."""
    grain = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 40)
    grey = 150 + 14 * grain / grain.std()
    return np.clip(grey[..., None] + rng.normal(0, 6, 3), 0, 255).astype(np.uint8)


def spoil(rgb: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The picture with a dark, saturated disc, and the mask of it."""
    side = len(rgb)
    y, x = np.mgrid[:side, :side]
    radius = rng.uniform(0.1, 0.18) * side
    row, column = rng.uniform(0.25, 0.75, 2) * side
    mask = (y - row) ** 2 + (x - column) ** 2 < radius**2
    bad = rgb.copy()
    bad[mask] = rng.integers((90, 0, 0), (160, 40, 40))
    return bad, mask.astype(np.uint8)


def write_set(
    root: Path, categories: Sequence[str] = ("nut", "tile"), good: int = 4, bad: int = 4, seed: int = 0, side: int = 96
) -> Path:
    """``root/<category>/test/{good,defect}`` and ``ground_truth/defect``; returns ``root``."""
    rng = np.random.default_rng(seed)
    for category in categories:
        folders = {name: root / category / name for name in ("test/good", "test/defect", "ground_truth/defect")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        for number in range(good):
            Image.fromarray(texture(rng, side)).save(folders["test/good"] / f"{number:03}.png")
        for number in range(bad):
            spoilt, mask = spoil(texture(rng, side), rng)
            Image.fromarray(spoilt).save(folders["test/defect"] / f"{number:03}.png")
            Image.fromarray(mask * 255).save(folders["ground_truth/defect"] / f"{number:03}_mask.png")
    return root
