"""Square tiles along the longer side of a picture, and their maps joined: the mean where they overlap (AnoVL on VisA)."""

from __future__ import annotations

import torch
from torch import Tensor

from zsad.alignment.maps import upsample

__all__ = ["cut_tiles", "join_grids"]


def _starts(size: tuple[int, int]) -> tuple[int, list[int]]:
    """Axis of the tiles (-1 columns, -2 rows) and where they begin: two, more where a picture is longer than two squares."""
    height, width = size
    axis, short, long = (-1, height, width) if width >= height else (-2, width, height)
    gaps = max(2, -(-long // short)) - 1
    return axis, [round((long - short) * k / gaps) for k in range(gaps + 1)]


def cut_tiles(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, n, C, S, S), S the shorter side; the first and the last tile touch the ends."""
    axis, starts = _starts((images.shape[-2], images.shape[-1]))
    return torch.stack([images.narrow(axis, start, min(images.shape[-2:])) for start in starts], dim=1)


def join_grids(grids: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes grids (B, n, C, h, w) of the tiles of pictures of that size (H, W), corner to corner -> (B, C, H, W).

    One grid is that of the whole picture; several are of the tiles that ``cut_tiles`` cuts: their mean where they overlap.
    """
    if grids.shape[1] == 1:
        return upsample(grids[:, 0].flatten(0, 1), size, align_corners=True).unflatten(0, (grids.shape[0], -1))
    axis, starts = _starts(size)
    tiles = upsample(grids.flatten(0, 2), min(size), align_corners=True).unflatten(0, grids.shape[:3])
    total = grids.new_zeros(grids.shape[0], grids.shape[2], *size)
    count = torch.zeros_like(total)
    for number, start in enumerate(starts):
        total.narrow(axis, start, min(size)).add_(tiles[:, number])
        count.narrow(axis, start, min(size)).add_(1)
    return total / count
