"""Maps and regions of interest at the size of the pixel metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from zsad.images.tiling import Geometry

__all__ = ["resized", "scored_pixels"]


def resized(values: NDArray[Any], size: int) -> NDArray[np.float32]:
    """(H, W) -> (size, size) float32, bilinear with antialiasing."""
    grid = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    fitted: NDArray[np.float32] = F.interpolate(grid, (size, size), mode="bilinear", antialias=True)[0, 0].numpy()
    return fitted


def scored_pixels(geometry: Geometry, picture: tuple[int, int], size: int) -> NDArray[np.bool_] | None:
    """(size, size) True where at least half of a pixel lies in the region of interest; None: there is no region.

    Args:
        geometry: how pictures are cut.
        picture: (H, W).
        size: of the metrics.
    """
    inside = geometry.window(picture).roi_mask()
    return None if inside is None else np.asarray(resized(inside, size) > 0.5)
