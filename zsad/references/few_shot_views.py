"""Many views of few normal pictures, to train on: INP-Former's, which are RegAD's (Huang et al., ECCV 2022)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["few_shot_views"]

ANGLES = tuple(step * math.pi / 16 for step in (-4, -3, -2, -1, 1, 2, 3, 4))  # of small turns
SHIFTS = tuple((far * x, far * y) for far in (0.2, 0.1) for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1)))  # half sides
GREY = (0.299, 0.587, 0.114)


def few_shot_views(images: Tensor) -> Tensor:
    """Views of K preprocessed pictures: themselves, 8 small turns, 8 shifts, mirrored, grey, and 3 quarter turns.

    Grey mixes the channels as they are, so of normalised pictures it is not the grey of their pixels (up to 0.24 apart).

    Args:
        images: (K, 3, H, W).

    Returns:
        (22 * K, 3, H, W), all of one kind of view together. What is turned or shifted in is a mirror image.
    """
    turns = [(math.cos(a), -math.sin(a), 0.0, math.sin(a), math.cos(a), 0.0) for a in ANGLES]
    moves = [(1.0, 0.0, x, 0.0, 1.0, y) for x, y in SHIFTS]
    found = [images, *(_moved(images, matrix) for matrix in turns + moves), images.flip(3)]
    found.append((images * images.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True).expand_as(images))
    return torch.cat([*found, *(images.rot90(quarters, (2, 3)) for quarters in (1, 2, 3))])


def _moved(images: Tensor, matrix: tuple[float, ...]) -> Tensor:
    """Samples each picture where ``matrix`` (2 x 3, row by row) takes its places, in units of half a side."""
    theta = images.new_tensor(matrix).view(1, 2, 3).expand(len(images), 2, 3)
    places = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="reflection", align_corners=False)
