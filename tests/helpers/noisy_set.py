"""Two annotated categories of noise whose defects are a little brighter, so that no metric is 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["CATEGORIES", "noisy", "truth", "write_noisy_set"]

CATEGORIES = ("bolt", "nut")


def truth(path: Path, box: tuple[int, int, int, int], value: int = 255, size: tuple[int, int] = (64, 64)) -> None:
    grey = np.zeros(size, np.uint8)
    grey[box[1] : box[3], box[0] : box[2]] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path)


def noisy(path: Path, seed: int, box: tuple[int, int, int, int] | None = None, light: float = 90, base: float = 100) -> None:
    """Noise, and a defect that is a little brighter than it, so that no metric is 1."""
    values = np.random.default_rng(seed).normal(base, 25, (64, 64))
    if box:
        values[box[1] : box[3], box[0] : box[2]] += light
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(values.clip(0, 255).astype(np.uint8)[..., None], 3, 2)).save(path)


def write_noisy_set(root: Path, normal: int = 7, bad: int = 5, train: int = 6) -> Path:
    """Two categories in MVTec's layout."""
    for number, category in enumerate(CATEGORIES):
        for index in range(train):
            noisy(root / category / "train/good" / f"{index:03d}.png", 1000 * number + 500 + index, base=20 + 30 * index)
        for index in range(normal):
            noisy(root / category / "test/good" / f"{index:03d}.png", 1000 * number + index)
        for index in range(bad):
            box = (6 * index, 10, 6 * index + 14, 26)
            noisy(root / category / "test/crack" / f"{index:03d}.png", 1000 * number + 100 + index, box, 40 - 5 * index)
            truth(root / category / "ground_truth/crack" / f"{index:03d}_mask.png", box)
    return root
