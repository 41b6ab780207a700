"""Pictures that a training picture is given at random: references of its category, and the cells of a mosaic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from zsad.training.data import Example

__all__ = ["Draws", "mosaic_of"]

CELLS = 4  # of a mosaic, row by row


class Draws:
    """Draws among the examples of a run: a function of seed, epoch and the picture's number, not of the processes.

    Args:
        examples: of the run, in their order.
        kinds: kind of defect of each, "" where it is normal or unknown.
        seed: of the run.
    """

    def __init__(self, examples: Sequence[Example], kinds: Sequence[str], seed: int) -> None:
        self.examples, self.seed = examples, seed
        self.normal: dict[str, list[int]] = {}  # rows by category
        self.kinds: dict[str, dict[tuple[int, str], list[int]]] = {}  # rows with masks by category, then label and kind
        for row, (example, kind) in enumerate(zip(examples, kinds, strict=True)):
            if not example.label:
                self.normal.setdefault(example.name, []).append(row)
            if example.masked:
                self.kinds.setdefault(example.name, {}).setdefault((example.label, kind), []).append(row)
        self.defects = {name: [rows for (label, _), rows in kinds.items() if label] for name, kinds in self.kinds.items()}

    def references(self, row: int, epoch: int, count: int) -> list[int]:
        """Rows of ``count`` normal pictures of the same category, with replacement; itself only where there is no other.

        The category must have a normal picture.
        """
        rows = self.normal[self.examples[row].name]
        others = [one for one in rows if one != row] or rows
        return np.random.default_rng([self.seed, epoch, row, 0]).choice(others, count).tolist()

    def anomalous(self, row: int, epoch: int, count: int) -> list[int]:
        """Rows of ``count`` masked pictures of the same category and kind of defect, with replacement; as ``references``.

        A normal picture draws a kind first. The category must have a defect with a mask.
        """
        rng, kinds = np.random.default_rng([self.seed, epoch, row, 2]), self.defects[self.examples[row].name]
        own = next((rows for rows in kinds if row in rows), None)
        rows = kinds[rng.integers(len(kinds))] if own is None else own
        return rng.choice([one for one in rows if one != row] or rows, count).tolist()

    def mosaic(self, row: int, epoch: int, part: float) -> list[int]:
        """Rows of the four cells where the picture is replaced by a mosaic, which a ``part`` of them is; else nothing.

        Each cell draws a kind of its category first (normal pictures are one), then a picture of it, as APRIL-GAN does.
        """
        rng = np.random.default_rng([self.seed, epoch, row, 1])
        if not self.examples[row].masked or rng.random() >= part:
            return []
        kinds = list(self.kinds[self.examples[row].name].values())
        return [int(rng.choice(kinds[rng.integers(len(kinds))])) for _ in range(CELLS)]


def mosaic_of(cells: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Four pictures (H, W, 3) uint8 and masks (H, W) uint8 as one of twice the first one's sides; the others take its size."""
    height, width = cells[0][0].shape[:2]
    size = (width, height)
    rgb = [np.array(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one, _ in cells]
    masks = [np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for _, mask in cells]
    upper, lower = (np.concatenate(rgb[i : i + 2], axis=1) for i in (0, 2))
    above, below = (np.concatenate(masks[i : i + 2], axis=1) for i in (0, 2))
    return np.concatenate([upper, lower]), np.concatenate([above, below])
